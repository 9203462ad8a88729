"""Seconds of what ``make soak`` does for half an hour, and that it would notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bnfx.bench.soak import WRITES, soak
from bnfx.weights.snapshot import Snapshot


@pytest.mark.parametrize("form", ["live", "frozen", "auto"])
def test_every_answer_is_of_a_version_that_was_current(form: str) -> None:
    folded = 0
    while folded <= 20:  # a busy machine makes few
        outcome = soak(form, seconds=3, sizes=((1, 8), (2, 8)))
        print(outcome)
        assert outcome.is_right, str(outcome)
        assert outcome.folded > 0
        assert len(outcome.writes) == len(WRITES) == 7
        folded += outcome.folded


def test_stale_answers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: Snapshot, tensors: Any) -> bool:
        return bool(torch.rand(()) < 0.9)  # now and then a change is seen

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "still_holds", blind)
        outcome = soak("live", seconds=1, threads=4, sizes=((1, 8),), inner="eager")
    assert outcome.wrong > 0
    assert not outcome.is_right
