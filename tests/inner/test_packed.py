"""Graphs on packed weights are right with any weights, whatever Inductor's passes made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inner.packed_graphs import Graph, made
from torch import fx

torch.manual_seed(0)
IMAGE = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
ROWS = torch.randn(3, 8)
KERNEL, OTHER = torch.randn(4, 4, 3, 3), torch.randn(4, 4, 1, 1)
MATRIX, SQUARE, VECTOR = torch.randn(5, 8), torch.randn(8, 8), torch.randn(5)
PACKS_CONV = ["aten.clone.default", "mkldnn._reorder_convolution_weight"]  # channels last
PACKS_MATRIX = "mkl._mkl_reorder_linear_weight"


def conv(x: Any, w: Any, b: Any) -> Any:
    return (F.conv2d(x, w, b),)


def conv_without_bias(x: Any, w: Any) -> Any:
    return (F.conv2d(x, w),)


def linear(x: Any, w: Any, b: Any) -> Any:
    return (F.linear(x, w, b),)


def linear_without_bias(x: Any, w: Any) -> Any:
    return (F.linear(x, w),)


def one_weight_twice(x: Any, w: Any) -> Any:
    return (F.linear(F.linear(x, w), w),)


def two_of_one(x: Any, w: Any) -> Any:
    return F.linear(x, w), F.linear(x, w * 2)


def nothing_beside(x: Any, w: Any) -> Any:
    return None, F.linear(x, w), 3


@fx.wrap
def table(x: Any) -> Any:
    """The graph's own, in AOTAutograd's eyes."""
    return torch.tensor([[0.5], [2.0], [0.5], [2.0], [1.0]])


def with_a_constant(x: Any, w: Any) -> Any:
    return (F.linear(x, w * table(x)),)


def constants_alone(x: Any, w: Any) -> Any:
    return F.linear(x, w), x + table(x)[:3]


@pytest.mark.parametrize(
    ("graph", "args", "steps"),
    [
        (conv, (IMAGE, KERNEL, VECTOR[:4]), PACKS_CONV),
        (conv_without_bias, (IMAGE, KERNEL), PACKS_CONV),
        (linear, (ROWS, MATRIX, VECTOR), [PACKS_MATRIX]),
        (linear_without_bias, (ROWS, MATRIX), [PACKS_MATRIX]),
        (one_weight_twice, (ROWS, SQUARE), [PACKS_MATRIX] * 2),
        (two_of_one, (ROWS, MATRIX), [PACKS_MATRIX] * 2),
        (nothing_beside, (ROWS, MATRIX), [PACKS_MATRIX]),
        (with_a_constant, (ROWS, MATRIX), [PACKS_MATRIX]),
        pytest.param(constants_alone, (ROWS, MATRIX), [PACKS_MATRIX], marks=pytest.mark.slow),
    ],
)
def test_right_with_any_weights(graph: Graph, args: tuple[Any, ...], steps: list[str]) -> None:
    names = "w b" if len(args) == 3 else "w"
    found = made(graph, [arg.clone() for arg in args], names)
    assert found.is_right()
    assert [step for step in found.steps if "reorder" in step or "clone" in step] == steps


@pytest.mark.parametrize("graph", [linear_without_bias, conv_without_bias, two_of_one])
def test_right_with_weights_that_are_laid_out_otherwise(graph: Graph) -> None:
    """As ``weight.data = ...`` may lay them out; the code that reads them does not look."""
    args = (IMAGE, KERNEL) if graph is conv_without_bias else (ROWS, MATRIX)
    found = made(graph, [arg.clone() for arg in args], "w")
    found.args[1] = found.args[1].transpose(0, 1).contiguous().transpose(0, 1)
    assert found.is_right()


ONE_DNN_MATRIX = "mkldnn._reorder_linear_weight"


@pytest.mark.parametrize(
    ("graph", "args", "steps"),
    [
        (linear, (ROWS, MATRIX, VECTOR), [ONE_DNN_MATRIX]),
        (linear_without_bias, (ROWS, MATRIX), [ONE_DNN_MATRIX]),
        (conv, (IMAGE, KERNEL, VECTOR[:4]), PACKS_CONV[:1]),  # Inductor packs it for one size alone
    ],
)
def test_right_with_any_number_of_rows(
    graph: Graph, args: tuple[Any, ...], steps: list[str]
) -> None:
    names = "w b" if len(args) == 3 else "w"
    found = made(graph, [arg.clone() for arg in args], names, is_open=True)
    assert [step for step in found.steps if "reorder" in step or "clone" in step] == steps
    for rows in (found.args[0], torch.cat([found.args[0]] * 3)):
        found.args[0] = rows
        assert found.is_right()


def test_weights_are_laid_out_as_the_options_say() -> None:
    args = [arg.clone() for arg in (IMAGE, KERNEL)]
    found = made(conv_without_bias, args, "w", layout_optimization=False)
    assert found.steps == PACKS_CONV[1:]
    assert found.is_right()
