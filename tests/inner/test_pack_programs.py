"""How packed weights are made again: a line of calls that says what it needs, and can be kept."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import pytest
import torch
from torch import fx

from bnfx.inner.packed.pack_program import Layout, PackingError, PackProgram, Step, Value

ATEN = torch.ops.aten


class Anyhow(Layout):
    """Of a tensor of any shape."""

    def of_numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def program(
    graph: fx.Graph,
    results: list[fx.Node],
    *constants: torch.Tensor,
    layouts: tuple[Layout, ...] | None = None,
) -> PackProgram:
    """Of a graph whose placeholders are weights, and constants behind them."""
    placeholders = graph.find_nodes(op="placeholder")
    calls = [node for node in graph.nodes if node.op == "call_function"]
    values = {node: Value(at) for at, node in enumerate([*placeholders, *calls])}
    return PackProgram(
        weights=tuple(node.name for node in placeholders[: len(placeholders) - len(constants)]),
        constants=constants,
        steps=tuple(Step.of(node, values) for node in calls),
        results=tuple(values[node] for node in results),
        layouts=layouts or (Anyhow((), None),) * len(results),
    )


def joined() -> tuple[PackProgram, dict[str, torch.Tensor]]:
    """``(weight * 2 + constant, reordered for oneDNN)``, and weights of it."""
    graph = fx.Graph()
    weight, constant = graph.placeholder("weight"), graph.placeholder("constant")
    twice = graph.call_function(ATEN.mul.Tensor, (weight, 2.0))
    both = graph.call_function(ATEN.cat.default, ([twice, constant], 0))
    plain = graph.call_function(ATEN.clone.default, (both,), {"memory_format": torch.channels_last})
    packet = torch.ops.mkldnn._reorder_convolution_weight
    packed = graph.call_function(packet, (plain, [1, 1], [1, 1], [1, 1], 1, [1, 3, 6, 6]))
    made = program(graph, [both, packed], torch.ones(2, 3, 3, 3))
    return made, {"weight": torch.randn(4, 3, 3, 3)}


def test_a_program_packs_any_numbers_after_pickling() -> None:
    made, _ = joined()
    for read in (made, pickle.loads(pickle.dumps(made))):
        _, weights = joined()
        expected = torch.cat([weights["weight"] * 2, torch.ones(2, 3, 3, 3)])
        plain, packed = read(weights)
        assert torch.equal(plain, expected)
        assert packed.layout is torch._mkldnn
        assert torch.equal(packed.to_dense(), expected)
    assert made.steps[0].op == "aten.mul.Tensor"
    assert made.steps[3].op == "mkldnn._reorder_convolution_weight"


def test_a_program_holds_what_is_read_no_longer_than_that() -> None:
    made, _ = joined()
    # The weight, after the first step; the product and the constant, after the next; the clone.
    assert [sorted(over) for over in made._over] == [[0], [1, 2], [], [4]]


def test_what_is_kept_on_disk_is_none_of_fx() -> None:
    """Its containers are not what they were in another version of torch."""
    graph = fx.Graph()
    weight, at = graph.placeholder("weight"), graph.placeholder("at")
    picked = graph.call_function(ATEN.index.Tensor, (weight, [None, at]))
    summed = graph.call_function(ATEN.sum.dim_IntList, (picked, [0]), {"keepdim": True})
    added = graph.call_function(ATEN.add.Tensor, (summed,), {"other": picked, "alpha": 2})
    made = program(graph, [added], torch.tensor([1, 0]))
    kept = pickle.dumps(made)
    assert b"torch.fx" not in kept
    weights = {"weight": torch.randn(3, 2)}
    flipped = weights["weight"].flip(1)
    (answer,) = pickle.loads(kept)(weights)
    assert torch.equal(answer, flipped.sum(0, keepdim=True) + 2 * flipped)


def test_a_function_of_python_is_called_as_it_is() -> None:
    graph = fx.Graph()
    weight = graph.placeholder("weight")
    parts = graph.call_function(ATEN.split.Tensor, (weight, 2))
    second = graph.call_function(operator.getitem, (parts, 1))
    made = program(graph, [second])
    (answer,) = pickle.loads(pickle.dumps(made))({"weight": torch.arange(4.0)})
    assert torch.equal(answer, torch.tensor([2.0, 3.0]))


def test_a_value_that_is_read_twice_is_there_both_times() -> None:
    graph = fx.Graph()
    weight = graph.placeholder("weight")
    twice = graph.call_function(ATEN.mul.Tensor, (weight, weight))
    again = graph.call_function(ATEN.sub.Tensor, (twice, weight))
    last = graph.call_function(ATEN.add.Tensor, (again, twice))
    (answer,) = program(graph, [last])({"weight": torch.tensor([3.0])})
    assert answer.item() == 15


def test_a_weight_may_be_a_constant_as_it_is() -> None:
    graph = fx.Graph()
    weight = graph.placeholder("weight")
    doubled = graph.call_function(ATEN.mul.Tensor, (weight, 2))
    made = program(graph, [weight, doubled, weight])
    first, second, third = made({"weight": torch.ones(2)})
    assert torch.equal(first, torch.ones(2))
    assert torch.equal(third, torch.ones(2))
    assert torch.equal(second, torch.full((2,), 2.0))


@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.inference_mode(),
        lambda: torch.enable_grad(),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_the_callers_modes_make_no_difference(mode: Any) -> None:
    """A later call, in another mode, is served with the same."""
    graph = fx.Graph()
    weight = graph.placeholder("weight")
    made = program(graph, [weight, graph.call_function(ATEN.mm.default, (weight, weight))])
    with mode():
        answers = made({"weight": torch.nn.Parameter(torch.eye(2))})
    for answer in answers:
        assert answer.dtype == torch.float32
        assert not answer.requires_grad
        assert answer.grad_fn is None
    assert not answers[1].is_inference()


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(2, 3),
        torch.randn(3, 2).t(),
        torch.randn(2, 6)[:, ::2],
        torch.randn(3).expand(2, 3),
    ],
)
@pytest.mark.parametrize("stride", [(3, 1), (1, 2), (5, 1)])
def test_constants_are_laid_out_as_compiled_code_reads_them(
    weight: torch.Tensor, stride: tuple[int, ...]
) -> None:
    """However a weight is laid out by now: the code does not look."""
    graph = fx.Graph()
    made = program(graph, [graph.placeholder("weight")], layouts=(Layout((2, 3), stride),))
    (answer,) = made({"weight": weight})
    assert torch.equal(answer, weight)
    assert answer.stride() == stride
    assert (answer.data_ptr() == weight.data_ptr()) == (weight.stride() == stride)


@pytest.mark.parametrize("stride", [(3, 1), None])
@pytest.mark.parametrize("shape", [(1, 3), (3, 2), (2, 3, 1), (2,), (4, 3)])
def test_constants_of_another_shape_are_refused(
    shape: tuple[int, ...], stride: tuple[int, ...] | None
) -> None:
    graph = fx.Graph()
    made = program(graph, [graph.placeholder("weight")], layouts=(Layout((2, 3), stride),))
    with pytest.raises(PackingError, match=r"in place of a weight that is \(2, 3\)"):
        made({"weight": torch.randn(shape)})


def test_what_is_packed_has_a_shape_alone() -> None:
    packed = torch.ones(4, 2, 3, 3).to_mkldnn()
    assert Layout.of(packed) == Layout((4, 2, 3, 3), None)
    assert Layout.of(torch.ones(3, 2).t()) == Layout((2, 3), (1, 2))
    assert Layout.of(packed).of_numbers(packed) is packed
