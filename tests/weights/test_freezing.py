"""When constants are made of weights that have settled, and what if that fails."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from folding import ENGINE, FREEZES, PLAIN, fail, made
from rebuilds import join_builds

from bnfx.inner.base import EngineRefusal, Inner
from bnfx.weights.body import Program
from bnfx.weights.changes.snapshot import Numbers
from bnfx.weights.freezing import MAX_REFREEZES, QUIET_CALLS, Budget, Patience


@pytest.mark.parametrize(("inner", "kind"), [(FREEZES, Patience), (ENGINE, Budget)])
def test_who_says_when_weights_are_frozen_again(inner: Inner, kind: type) -> None:
    each = made(inner)
    each.compile("frozen")
    assert type(each.function._patience) is kind
    live = made(PLAIN)
    live.compile("live")
    assert live.function._patience is None


def frozen_once(inner: Inner, calls: int = QUIET_CALLS) -> Any:
    """Written to, and called that often since."""
    each = made(inner)
    each.compile("frozen")
    each.parameter("running_var").mul_(2)
    for _ in range(calls):
        assert each.is_right()
        assert not each.state.frozen or calls > QUIET_CALLS
    return each


def test_weights_that_settled_are_frozen_once() -> None:
    each = frozen_once(FREEZES, QUIET_CALLS - 1)
    assert each.state.quiet.calls == QUIET_CALLS - 1
    assert each.is_right()
    state = each.state
    assert state.frozen
    assert len(state.ways) == 2  # the live one is for other sizes
    for _ in range(2 * QUIET_CALLS):
        assert each.is_right()
    assert each.state is state
    assert each.function._patience._frozen == 1


@pytest.mark.parametrize("step", ["fill", "freeze_late"])
@pytest.mark.parametrize("quiet", [False, True])
def test_freezing_again_that_fails(
    step: str, quiet: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The live body answers, and nobody tries once more."""
    each = frozen_once(FREEZES, QUIET_CALLS - 1)
    error: Exception = EngineRefusal("broken", quiet=True) if quiet else MemoryError("broken")
    monkeypatch.setattr(Program, step, fail(error))
    caplog.set_level(logging.INFO)
    assert each.is_right()
    (record,) = (each for each in caplog.records if "freezing failed" in each.msg)
    assert record.levelno == (logging.INFO if quiet else logging.WARNING)
    assert each.function._patience._frozen == MAX_REFREEZES
    assert not each.state.frozen


def test_an_engine_that_fails_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    each = frozen_once(ENGINE, QUIET_CALLS - 1)
    monkeypatch.setattr(Program, "freeze_late", fail(MemoryError("broken")))
    assert each.is_right()
    join_builds()
    monkeypatch.undo()
    assert [record.msg for record in caplog.records] == [
        "bnfx: freezing failed, folded weights stay inputs: %r"
    ]
    each.parameter("running_var").mul_(2)
    each.function._patience._began -= 1e6
    for _ in range(QUIET_CALLS):
        assert each.is_right()
    join_builds()
    assert each.state.frozen


@pytest.mark.parametrize("unsettled", [False, True])
def test_what_is_written_while_it_is_frozen(
    unsettled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is frozen, and the state may be, later."""
    each = frozen_once(FREEZES, QUIET_CALLS - 1)
    state = each.state
    if unsettled:
        of = Numbers.of

        def disturbed(*args: Any) -> Numbers:
            numbers = of(*args)
            return replace(numbers, moment=replace(numbers.moment, settled=False))

        monkeypatch.setattr(Numbers, "of", staticmethod(disturbed))
    else:
        monkeypatch.setattr(Program, "fill", lambda self, numbers: None)
    with torch.no_grad():
        assert each.function._patience.take(state.quiet) is False
        state.quiet.calls = QUIET_CALLS
        state.quiet.frozen = True
        assert each.function._freeze_again(state, each.args) is state
    assert not state.quiet.frozen


def test_a_state_that_was_replaced_while_it_was_frozen() -> None:
    """What was frozen answers the call that it was frozen for."""
    each = frozen_once(FREEZES, QUIET_CALLS - 1)
    state = each.state
    each.parameter("running_var").mul_(2)
    assert each.is_right()
    newer = each.state
    with torch.no_grad():
        frozen = each.function._freeze_again(state, each.args)
    assert frozen.frozen
    assert each.state is newer


def test_the_original_is_not_frozen() -> None:
    each = made(FREEZES)
    each.compile("frozen")
    each.spoil()
    for _ in range(2 * QUIET_CALLS):
        assert each.is_right()
    assert not each.state.frozen
    assert each.state.quiet.calls == 0


def test_nobody_packs_where_the_compiler_cannot(caplog: pytest.LogCaptureFixture) -> None:
    """Nor says that packing failed, when weights changed."""
    frozen_once(FREEZES, 1)
    assert "packing" not in caplog.text
