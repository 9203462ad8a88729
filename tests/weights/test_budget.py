"""How much time an engine may spend on building anew."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from rebuilds import join_builds

from bnfx.weights import freezing
from bnfx.weights.freezing import MAX_REFREEZES, QUIET_CALLS, SHARE, Budget, Patience, Quiet


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


def test_a_thread_that_cannot_be_started(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: object) -> None:
        raise RuntimeError("no more threads")

    budget = Budget()
    assert budget.take(_settled())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        budget.build(lambda: None)
    assert "no more threads" in caplog.text
    assert budget.take(_settled())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_builds_what_its_parent_was_building(clock: Clock) -> None:
    """And takes no lock that a thread of the parent had."""
    budget, patience, quiet, other = Budget(), Patience(), _settled(), _settled()
    release, held = threading.Event(), threading.Event()
    assert budget.take(quiet)
    budget.build(lambda: release.wait(30))

    def hold() -> bool:
        held.set()
        return release.wait(30)

    holds = [threading.Thread(target=each._lock.run, args=(hold,)) for each in (budget, patience)]
    for thread in holds:
        held.clear()
        thread.start()
        assert held.wait(30)
    child = os.fork()
    if not child:
        signal.alarm(20)  # it would wait for ever
        os._exit(not (budget.take(quiet) and patience.take(other) and not budget.take(_settled())))
    release.set()
    _, status = os.waitpid(child, 0)
    for thread in holds:
        thread.join()
    join_builds()
    assert status == 0
    assert quiet.frozen
    assert not other.frozen


@pytest.mark.parametrize(
    ("calls", "times", "taken"),
    [
        (QUIET_CALLS - 1, 0, False),
        (QUIET_CALLS, 0, True),
        (QUIET_CALLS * 4 - 1, 1, False),
        (QUIET_CALLS * 4, 1, True),
        (QUIET_CALLS * 4**9, MAX_REFREEZES, False),
    ],
)
def test_patience_grows_and_ends(calls: int, times: int, taken: bool) -> None:
    """However a thread comes to ask: what is looked at without the lock is looked at with it."""
    for ask in (Patience.take, Patience._take):
        patience = Patience()
        for _ in range(times):
            assert patience.take(Quiet(calls=QUIET_CALLS * 4**9))
        quiet = Quiet(calls=calls)
        assert ask(patience, quiet) is taken
        assert quiet.frozen is taken
        assert not ask(patience, quiet)
        assert not ask(patience, Quiet(calls=10**9, frozen=True))


def test_patience_that_is_given_up() -> None:
    patience = Patience()
    patience.give_up()
    assert not patience.take(Quiet(calls=10**9))


def test_two_that_ask_a_budget_at_once(clock: Clock) -> None:
    """The second was told by the quick look that it may."""
    budget, quiet, other = Budget(), _settled(), _settled()
    clock.now = 10.0
    assert budget._take(quiet)
    assert not budget._take(other)
    assert not other.frozen
    budget.build(lambda: None)
    join_builds()
    assert not budget._take(quiet)
    assert budget._take(other)


def test_without_the_lock_what_is_not_settled_is_refused(clock: Clock) -> None:
    """The usual answer takes no lock."""
    for kind in (Patience, Budget):
        each = kind()
        each._lock = None  # type: ignore[assignment]
        assert not each.take(Quiet(calls=QUIET_CALLS - 1))
        assert not each.take(Quiet(calls=10**9, frozen=True))
    budget, patience = Budget(), Patience()
    assert budget.take(_settled())
    patience.give_up()
    budget._lock = patience._lock = None  # type: ignore[assignment]
    assert not budget.take(_settled())
    assert not patience.take(_settled())


def test_a_child_of_a_parent_that_builds_or_not() -> None:
    """What was being built may be built there."""
    budget, quiet = Budget(), _settled()
    budget.forked()
    for _ in range(2):
        assert budget.take(quiet)
        assert not budget.take(quiet)
        budget.forked()
    assert not quiet.frozen
