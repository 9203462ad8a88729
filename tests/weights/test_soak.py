"""Seconds of what ``make soak`` does for half an hour, and that it would notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bnfx.bench.soak import soak
from bnfx.bench.soaking.soak_answers import Subject
from bnfx.bench.soaking.soak_writes import WRITES, Matrix, Vector, weight_of
from bnfx.weights.changes.snapshot import Snapshot


@pytest.mark.one_in(3)
@pytest.mark.parametrize("form", ["live", "frozen", "auto"])
def test_every_answer_is_as_promised(form: str) -> None:
    sizes = ((1, 8), (2, 8))[: 1 + (form == "live")]  # each size is compiled for each net and form
    outcome = soak(form, seconds=0, threads=8, sizes=sizes, cycles=1)
    print(outcome)
    assert outcome.is_right, str(outcome)
    assert outcome.share("eager") < 0.5
    assert outcome.share("unfolded") == 0.0
    assert outcome.calls["inputs"] > 100
    assert (outcome.calls["constants"] > 100) == (form == "frozen")
    assert {*outcome.writes} == {*WRITES, "by element"}


def test_stale_answers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: Snapshot, tensors: Any) -> bool:
        return bool(torch.rand(()) < 0.9)  # now and then a change is seen

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "still_holds", blind)
        outcome = soak("live", seconds=0, threads=4, sizes=((1, 8),), inner="eager", cycles=1)
    assert outcome.wrong > 0
    assert not outcome.is_right


X = torch.rand(1, 4, 8, 8) - 0.5


def vector(elements: list[int]) -> torch.Tensor:
    """What a model answers whose elements are of these versions."""
    subject = Subject(Vector(0), [X])
    weight = torch.stack([weight_of(subject.model, v)[at] for at, v in enumerate(elements)])
    return subject._answer(weight, 0)


@pytest.mark.parametrize(
    ("elements", "done", "begun", "judged"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), "exact"),
        ((0, 0, 0, 0), (1, 1, 1, 1), (1, 1, 1, 1), "wrong"),
        ((0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1), "whole"),
        ((1, 1, 1, 1), (0, 0, 0, 0), (1, 1, 1, 1), "whole"),
        ((1, 0, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1), "mixed"),
        ((2, 0, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1), "wrong"),
        ((1, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0), "exact"),  # in the middle of a slow write
        ((1, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), "mixed"),
        ((0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), "wrong"),  # the first was written before
    ],
)
def test_each_element_is_of_a_write_that_may_be_seen(
    elements: Any, done: Any, begun: Any, judged: str
) -> None:
    assert Subject(Vector(0), [X]).judge(vector(elements), 0, done, begun) == judged


def test_elements_of_a_matrix_are_of_writes_that_may_be_seen() -> None:
    subject = Subject(Matrix(0), [torch.rand(2, 64, 4, 4) + 0.1])
    old, new, later = (weight_of(subject.model, version) for version in range(3))
    torn = torch.where(torch.rand(old.shape) < 0.5, old, new)
    beyond = old.clone()
    beyond[3] = later[3]
    for weight, judged in ((old, "whole"), (new, "whole"), (torn, "mixed"), (beyond, "wrong")):
        answer = subject._answer(weight, 0)
        assert subject.judge(answer, 0, (0,), (1,)) == judged
    assert subject.judge(subject._answer(old, 0), 0, (1,), (1,)) == "wrong"
    assert subject.judge(subject._answer(new, 0), 0, (1,), (1,)) == "exact"
