"""Weight gradients move between the start of a reduction and the wait for it, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx
from torch.distributed import _functional_collectives  # noqa: F401  (registers what is traced)
from torch.fx.experimental.proxy_tensor import make_fx

from bnfx.passes.fx.training.late_waits import overlap

aten, ops = torch.ops.aten, torch.ops._c10d_functional
BOTH, INPUT, REST = [True, True, True], [True, False, False], [False, True, True]


def backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    ones, zeros = (1, 1), (0, 0)
    return list(
        aten.convolution_backward(
            grad, x, weight, [4], ones, zeros, ones, False, zeros, 1, [True] * 3
        )
    )


def reduced(x: torch.Tensor) -> torch.Tensor:
    return x - ops.wait_tensor(ops.all_reduce(x.sum((0, 2, 3)), "sum", "0")).view(1, -1, 1, 1)


def conv(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dx, dw, db = backward(g, x, w)
    return reduced(dx), dw, db


def needed_before(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dx, dw, db = backward(g, x, w)
    return reduced(dx + dw.sum()), dw, db


def used_on_the_way(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dx, dw, db = backward(g, x, w)
    scaled = dw * 2
    return reduced(dx), scaled, db


def written(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dx, dw, db = backward(g, x, w)
    w.mul_(2)
    return reduced(dx), dw, db


def linear(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    dw = torch.mm(g.flatten(1).t(), x.flatten(1))
    return reduced(g), dw.t()


def alone(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(backward(g, x, w))


def traced(function: Callable[..., object]) -> fx.GraphModule:
    shapes = ((2, 4, 5, 5), (2, 3, 5, 5), (4, 3, 1, 1))
    return make_fx(function, tracing_mode="fake")(*(torch.randn(shape) for shape in shapes))


def order(module: fx.GraphModule) -> list[object]:
    """What is computed by a convolution's backward, a product, or between ranks."""
    found: list[object] = []
    for node in module.graph.nodes:
        if node.target is aten.convolution_backward.default:
            found.append(list(node.args[-1]))
        elif any(word in str(node.target) for word in ("all_reduce", "wait", "aten.mm")):
            found.append(node.name.split("_")[0])
    return found


@pytest.mark.parametrize(
    ("function", "moved", "expected"),
    [
        (conv, 1, [INPUT, "all", REST, "wait"]),
        (used_on_the_way, 1, [INPUT, "all", REST, "wait"]),
        (needed_before, 0, [INPUT, REST, "all", "wait"]),
        (written, 0, [INPUT, REST, "all", "wait"]),
        (linear, 1, ["all", "mm", "wait"]),
        (alone, 0, [BOTH]),
    ],
)
def test_what_moves(function: Callable[..., object], moved: int, expected: list[object]) -> None:
    module = traced(function)
    assert overlap(module.graph) == moved
    module.graph.lint()
    assert order(module) == expected
    for node in module.graph.find_nodes(
        op="call_function", target=aten.convolution_backward.default
    ):
        present = [value is not None for value in node.meta["val"]]
        assert present == list(node.args[-1])


@pytest.mark.parametrize(
    ("reduce", "moved"), [(ops.all_reduce.default, 1), (ops.all_reduce_.default, 0)]
)
def test_what_is_reduced_in_place_is_not_read_later(reduce: object, moved: int) -> None:
    graph = fx.Graph()
    a, s = graph.placeholder("a"), graph.placeholder("s")
    product = graph.call_function(aten.mm.default, (a, s))
    total = graph.call_function(reduce, (s, "sum", "0"))  # type: ignore[arg-type]
    graph.output((product, graph.call_function(ops.wait_tensor.default, (total,))))
    assert overlap(graph) == moved


def test_without_the_values_of_gradients() -> None:
    module = traced(conv)
    for node in module.graph.nodes:
        node.meta.pop("val", None)
    assert overlap(module.graph) == 1
    assert order(module) == [INPUT, "all", REST, "wait"]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, False, False], [[True, False, False]]),
        ([False, True, True], [[False, True, True]]),
        ([True, False, True], [INPUT, [False, False, True]]),
        ([True, True, False], [INPUT, [False, True, False]]),
    ],
)
def test_which_gradients_are_split(mask: list[bool], expected: list[list[bool]]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(aten.convolution_backward.default, (x, x, mask))
    parts = [graph.call_function(operator.getitem, (node, at)) for at in range(3) if mask[at]]
    total = graph.call_function(ops.all_reduce.default, (x, "sum", "0"))
    graph.call_function(torch.relu, (total,))  # the wait for it is elsewhere
    graph.output(tuple(parts))
    assert overlap(graph) == 0
    found = graph.find_nodes(op="call_function", target=aten.convolution_backward.default)
    assert [list(each.args[-1]) for each in found] == expected
