"""How folded constants came from the weights is kept, or nothing is packed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.constant_folding import constant_fold
from torch._subclasses.fake_tensor import FakeTensorMode

from bnfx.inner.packed.lifted_constants import LiftedConstants, lift_constants
from bnfx.inner.packed.pack_program import PackingError
from bnfx.inner.packed.recorder import Recorder

ATEN = torch.ops.aten
Build = Callable[[fx.Graph, fx.Node, fx.Node, fx.Node, fx.Node], tuple[fx.Node, ...]]
Fold = Callable[..., None]


class Recorded:
    """``build`` makes the outputs from the input ``x``, the weights ``a`` and ``b`` and the
    constant ``own``, each of 2 by 2 elements. Folded ``times``.
    """

    def __init__(self, build: Build, fold: Fold = constant_fold, times: int = 1) -> None:
        self.weights = {name: torch.randn(2, 2) for name in "ab"}
        held = {**self.weights, "own": torch.randn(2, 2)}
        self.own = held["own"]
        graph = fx.Graph()
        x = graph.placeholder("x")
        graph.output(build(graph, x, *(graph.get_attr(name) for name in held)))
        self.module = fx.GraphModule(held, graph)
        self.recorder = Recorder(fold, self.weights, [torch.zeros(()), self.own])
        for _ in range(times):
            self.recorder.here_only()(self.module)

    def lifted(self) -> LiftedConstants:
        return lift_constants(self.module, [FakeTensorMode().from_tensor(torch.randn(2, 2))])

    def is_right(self, expected: Callable[..., list[torch.Tensor]]) -> bool:
        """With other weights than it was recorded with."""
        program = self.recorder.program(self.lifted())
        weights = {name: torch.randn(2, 2) for name in self.weights}
        wanted = expected(weights["a"], weights["b"], self.own)
        return all(map(torch.equal, program(weights), wanted)) and len(program.results) == len(
            wanted
        )


def double(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    twice = graph.call_function(ATEN.mul.Tensor, (a, 2))
    return (graph.call_function(ATEN.add.Tensor, (x, twice)),)


def as_they_are(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    return tuple(graph.call_function(ATEN.add.Tensor, (x, each)) for each in (b, own, a, b))


def shared(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    """One value is a constant by itself, and part of two others."""
    both = graph.call_function(ATEN.add.Tensor, (a, own))
    minus = graph.call_function(ATEN.sub.Tensor, (both, b))
    times = graph.call_function(ATEN.mul.Tensor, (both, minus))
    return tuple(graph.call_function(ATEN.mul.Tensor, (x, each)) for each in (both, minus, times))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (double, lambda a, b, own: [a * 2]),
        (as_they_are, lambda a, b, own: [a, b, own]),
        (shared, lambda a, b, own: [a + own, a + own - b, (a + own) * (a + own - b)]),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_what_was_folded_is_made_again(build: Build, expected: Any, times: int) -> None:
    assert Recorded(build, times=times).is_right(expected)


def test_what_was_folded_from_what_was_folded() -> None:
    """A pass of Inductor's writes new calls between two folds."""
    made = Recorded(double)
    graph = made.module.graph
    (constant,) = graph.find_nodes(op="get_attr")
    with graph.inserting_after(constant):
        minus = graph.call_function(ATEN.neg.default, (constant,))
    constant.replace_all_uses_with(minus, lambda user: user is not minus)
    made.recorder.here_only()(made.module)
    assert made.is_right(lambda a, b, own: [-(a * 2)])


def test_the_graphs_of_other_threads_are_folded_and_not_kept() -> None:
    here = Recorded(double, times=0)
    elsewhere = Recorded(double, times=0)
    thread = threading.Thread(target=here.recorder.here_only(), args=(elsewhere.module,))
    thread.start()
    thread.join()
    assert any("_frozen_param" in str(node.target) for node in elsewhere.module.graph.nodes)
    assert not here.recorder._made
    with pytest.raises(PackingError, match="made by a pass of its own"):
        elsewhere.recorder.program(elsewhere.lifted())


def entangled(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    for _ in range(60):
        a, b = b, graph.call_function(ATEN.sub.Tensor, (a, b))
    return (graph.call_function(ATEN.add.Tensor, (x, b)),)


def test_what_is_read_many_times_is_made_once() -> None:
    made = Recorded(entangled)
    assert len(made.recorder.program(made.lifted()).steps) == 60


def then(change: Callable[[fx.GraphModule, str], None]) -> Fold:
    """A pass that folds, and does that to the constant."""

    def fold(module: fx.GraphModule) -> None:
        constant_fold(module)
        for node in module.graph.find_nodes(op="get_attr"):
            change(module, str(node.target))

    return fold


def hold(value: Callable[[torch.Tensor], torch.Tensor]) -> Fold:
    return then(lambda module, name: setattr(module, name, value(getattr(module, name))))


@pytest.mark.parametrize(
    "fold",
    [
        hold(lambda value: value + 1),
        hold(lambda value: torch.stack([value[0], value[1] + 1])),
        hold(lambda value: value.double()),
        hold(lambda value: value[:1].clone()),
        hold(lambda value: value.view(4)),
        hold(lambda value: value[None]),
        hold(lambda value: torch.full_like(value, torch.nan)),
        hold(lambda value: value.to_mkldnn()),
        hold(lambda value: (value + 1).to_mkldnn()),
    ],
)
def test_what_cannot_be_made_again_is_not_packed(fold: Fold) -> None:
    made = Recorded(double, fold)
    with pytest.raises(PackingError, match=r"cannot be made from|in place of a weight"):
        made.recorder.program(made.lifted())


def test_what_is_equal_row_by_row_is_not_the_same() -> None:
    made = Recorded(double, hold(lambda value: value[:1].clone()), times=0)
    made.weights["a"].fill_(3.0)
    made.recorder.here_only()(made.module)
    with pytest.raises(PackingError, match="in place of a weight"):
        made.recorder.program(made.lifted())


def test_what_a_pass_laid_out_otherwise_is_laid_out_so_again() -> None:
    """The code that reads it does not look."""
    made = Recorded(double, hold(lambda value: value.t().contiguous().t()))
    program = made.recorder.program(made.lifted())
    weights = {name: torch.randn(2, 2) for name in "ab"}
    (answer,) = program(weights)
    assert torch.equal(answer, weights["a"] * 2)
    assert answer.stride() == (1, 2)


def renamed(module: fx.GraphModule, name: str) -> None:
    """As passes do that compute from tensors, beside the graph."""
    module.register_buffer("concatenated", getattr(module, name) * 1)
    for node in module.graph.find_nodes(op="get_attr", target=name):
        node.target = "concatenated"


@pytest.mark.parametrize("without_own", [False, True])
def test_a_constant_that_nobody_saw_made_is_not_packed(without_own: bool) -> None:
    """It may hold numbers of the model, and would go on holding them when these change."""
    made = Recorded(double)
    (constant,) = made.module.graph.find_nodes(op="get_attr")
    renamed(made.module, str(constant.target))
    if without_own:
        made.recorder._own = ()
    with pytest.raises(PackingError, match="concatenated was made by a pass of its own"):
        made.recorder.program(made.lifted())


def test_nan_is_as_good_as_another_number() -> None:
    made = Recorded(double, times=0)
    made.weights["a"][0, 1] = torch.nan
    made.recorder.here_only()(made.module)
    assert made.is_right(lambda a, b, own: [a * 2])


def for_one_dnn(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    kernel = graph.call_function(ATEN.view.default, (a, [2, 2, 1, 1]))
    packet = torch.ops.mkldnn._reorder_convolution_weight
    packed = graph.call_function(packet, (kernel, [0, 0], [1, 1], [1, 1], 1, [1, 2, 6, 6]))
    return (graph.call_function(ATEN.add.Tensor, (x, packed)),)


def test_what_is_packed_for_one_dnn() -> None:
    made = Recorded(for_one_dnn)
    program = made.recorder.program(made.lifted())
    (packed,) = program({"a": torch.eye(2), "b": torch.eye(2)})
    assert packed.layout is torch._mkldnn  # type: ignore[attr-defined]
    assert torch.equal(packed.to_dense(), torch.eye(2).view(2, 2, 1, 1))


def for_mkl(graph: fx.Graph, x: fx.Node, a: fx.Node, b: fx.Node, own: fx.Node) -> Any:
    packed = graph.call_function(torch.ops.mkl._mkl_reorder_linear_weight, (a, 2))
    return tuple(graph.call_function(ATEN.add.Tensor, (x, each)) for each in (packed, b))


def test_bytes_that_mean_nothing_are_not_compared() -> None:
    """MKL's own: two buffers of one weight may differ. The weight beside it is compared."""
    other = torch.ops.mkl._mkl_reorder_linear_weight(torch.ones(2, 2), 2)

    def change(module: fx.GraphModule, name: str) -> None:
        if name not in ("a", "b"):
            setattr(module, name, other)

    made = Recorded(for_mkl, then(change))
    assert len(made.recorder.program(made.lifted()).steps) == 1


def test_no_number_of_the_model_is_kept_alive() -> None:
    made = Recorded(double)
    program = made.recorder.program(made.lifted())
    watched = [weakref.ref(each) for each in (*made.weights.values(), made.own)]
    recorder = made.recorder
    del made
    gc.collect()
    assert [each() for each in watched] == [None] * 3
    assert recorder is not None
    assert program.constants == ()
