"""How much time an engine may spend on building anew."""

from __future__ import annotations

import threading

import pytest
import torch
from rebuilds import join_builds

from bnfx.weights import freezing
from bnfx.weights.freezing import QUIET_CALLS, SHARE, Budget, Quiet


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(freezing.time, "monotonic", clock)
    return clock


def _settled() -> Quiet:
    return Quiet(calls=QUIET_CALLS)


def test_the_first_build_is_free_and_later_ones_wait_for_their_share(clock: Clock) -> None:
    budget = Budget()
    assert not budget.take(Quiet(calls=QUIET_CALLS - 1))

    def work() -> None:
        clock.now += 3.0

    assert budget.take(_settled())
    budget.build(work)
    join_builds()
    assert not budget.take(_settled())
    clock.now = 3.0 / SHARE - 0.1
    assert not budget.take(_settled())
    clock.now += 0.2
    assert budget.take(_settled())


def test_over_a_long_time_no_more_than_the_share_and_one_build(clock: Clock) -> None:
    budget, spent = Budget(), 0.0

    def work() -> None:
        clock.now += 2.0

    for _ in range(1000):
        clock.now += 0.1
        if budget.take(_settled()):
            budget.build(work)
            join_builds()
            spent += 2.0
    assert SHARE * clock.now - 2.0 <= spent <= SHARE * clock.now + 2.0


def test_one_build_at_a_time_and_one_for_each_state(clock: Clock) -> None:
    budget, quiet, release = Budget(), _settled(), threading.Event()
    assert budget.take(quiet)
    budget.build(lambda: release.wait(30))
    assert not budget.take(_settled())
    release.set()
    join_builds()
    assert not budget.take(quiet)
    assert budget.take(_settled())


def test_a_build_that_fails_is_logged_and_leaves_the_way_free(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    budget, modes = Budget(), list[bool]()

    def work() -> None:
        modes.append(torch.is_grad_enabled())
        raise ValueError("broken")

    assert budget.take(_settled())
    budget.build(work)
    join_builds()
    assert "broken" in caplog.text
    assert modes == [False]
    clock.now = 1.0
    assert budget.take(_settled())
