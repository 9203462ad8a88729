"""Sets of parameters whose folded weights are kept."""

from __future__ import annotations

import gc

import pytest
import torch

from bnfx.weights import folded
from bnfx.weights.changes.snapshot import Moment, Snapshot
from bnfx.weights.folded import MAX_PARAMETER_SETS, FoldedSets, FoldedState
from bnfx.weights.ways import Way, always


def state(tensors: list[torch.Tensor], number: float = 0.0, settled: bool = True) -> FoldedState:
    way = Way(always, lambda args: args)
    return FoldedState(Moment(Snapshot(tensors), (number,), settled), None, (way,))  # type: ignore


def test_sets() -> None:
    """The latest first, each once, so many, and those that are settled."""
    sets, one, other = FoldedSets(), [torch.zeros(3)], [torch.zeros(3)]
    first, second = state(one), state(other)
    for each in (first, second):
        sets.publish(each)
    assert sets.states == (second, first)
    assert sets.of(one, (0.0,)) is first
    assert sets.of(other, (0.0,)) is second
    assert sets.of(one, (1.0,)) is None
    sets.publish(state(one, settled=False))
    assert sets.states == (second, first)
    newer = state(one)
    sets.publish(newer)
    assert sets.states == (newer, second)
    for number in range(1, 2 * MAX_PARAMETER_SETS):
        sets.publish(state(one, number))
    assert len(sets.states) == MAX_PARAMETER_SETS
    assert sets.of(one, (2.0 * MAX_PARAMETER_SETS - 1,)) is sets.states[0]


def test_sets_that_nobody_can_call_with_are_let_go() -> None:
    sets, kept, shared = FoldedSets(), torch.zeros(3), torch.zeros(3)
    for tensors in ([kept], [torch.zeros(3)], [shared, kept], [shared, torch.zeros(3)]):
        sets.publish(state(tensors))
    del tensors
    sets.let_go()
    assert [len(each.moment.snapshot.tensors) for each in sets.states] == [2, 1]
    before = sets.states
    sets.let_go()
    assert sets.states is before
    del shared
    sets.let_go()
    assert [len(each.moment.snapshot.tensors) for each in sets.states] == [1]


@pytest.mark.parametrize(
    ("phase", "generation", "gone"), [("stop", 2, True), ("stop", 1, False), ("start", 2, False)]
)
def test_after_a_whole_collection(phase: str, generation: int, gone: bool) -> None:
    sets = FoldedSets()
    gc.disable()
    try:
        sets.publish(state([torch.zeros(3)]))
        folded._after_collection(phase, {"generation": generation})
        assert (sets.states == ()) == gone
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("fitting", "chosen"), [([True, True], 0), ([False, True], 1), ([False, False], None)]
)
def test_the_first_way_that_fits_answers(fitting: list[bool], chosen: int | None) -> None:
    ways = tuple(Way(lambda args, fits=fits: fits, lambda args: args) for fits in fitting)
    found = FoldedState(Moment(Snapshot([]), (), True), None, ways).way([])  # type: ignore
    assert found is (None if chosen is None else ways[chosen])
