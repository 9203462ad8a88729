"""Which form serves which call, with inner compilers that run graphs as they are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from folding import ENGINE, FREEZES, PACKS, PLAIN, captured, fail, made
from rebuilds import join_builds
from torch._subclasses import FakeTensorMode

from bnfx.inner.base import EngineRefusal, Inner
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import rewrite_captured
from bnfx.passes.report import RewriteWarning
from bnfx.torch_private import RestartAnalysis
from bnfx.weights.body import Program
from bnfx.weights.freezing import QUIET_CALLS
from bnfx.weights.function import FoldedFunction
from bnfx.weights.programs import Programs

ALL = {"plain": PLAIN, "frozen": FREEZES, "packed": PACKS, "engine": ENGINE}


@pytest.mark.parametrize("inner", ALL)
@pytest.mark.parametrize("wanted", ["live", "frozen", "auto"])
def test_each_form_is_right_after_each_write(inner: str, wanted: str) -> None:
    each = made(ALL[inner])
    form, _ = each.compile(wanted)
    frozen = inner != "plain" and (wanted == "frozen" or (wanted == "auto" and inner != "packed"))
    assert (form == "frozen") == frozen
    assert each.state.frozen == frozen
    first = each.state
    for _ in range(2 * QUIET_CALLS):
        assert each.is_right()
    assert each.state is first
    folded = set(each.function._programs.watched)
    for at in (each.inputs.positions[name] for name in each.inputs.parameters):
        before = each.state
        each.args[at].mul_(1.5)
        assert each.is_right()
        assert (each.state is not before) == (at in folded)
        assert not each.state.frozen
    for _ in range(4 * QUIET_CALLS):
        assert each.is_right()
    join_builds()
    assert each.state.frozen == frozen
    assert each.is_right()
    each.parameter("running_var")[1] = float("nan")
    assert each.is_right()
    each.parameter("running_var")[1] = 1.0
    assert each.is_right()


@pytest.mark.parametrize("form", ["pack", "freeze"])
def test_a_form_that_fails_is_followed_by_the_next(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broken = replace(PACKS, **{form: fail(ValueError("broken\nin two lines"))})
    each = made(broken)
    watched = each.function._programs.watched
    if form == "pack":
        assert each.compile("live") == ("live", "inputs; packing failed: broken")
    else:
        with pytest.warns(RewriteWarning, match="freezing failed, folded weights stay inputs"):
            assert each.compile("frozen") == ("live", "inputs; freezing failed: broken")
    # The first model of a process also says whether the native check is there.
    assert [bool(record.exc_info) for record in caplog.records if "failed" in record.msg] == [True]
    programs = each.function._programs
    assert programs.watched == watched
    assert not programs.packs
    assert not programs.first.packs
    each.parameter("running_var").mul_(2)
    assert each.is_right()
    assert not each.state.frozen


def test_packing_fails_and_freezing_serves() -> None:
    each = made(replace(PACKS, pack=fail(ValueError("broken"))))
    form, why = each.compile("auto")
    assert form == "frozen"
    assert "packing failed: broken" in why
    assert each.is_right()
    assert each.state.frozen


@pytest.mark.parametrize("error", [RestartAnalysis(), EngineRefusal("no")])
@pytest.mark.parametrize("form", ["pack", "freeze", "compile"])
def test_what_is_no_failure_is_raised(error: Exception, form: str) -> None:
    each = made(replace(PLAIN if form == "compile" else PACKS, **{form: fail(error)}))
    with pytest.raises(type(error)):
        each.compile("frozen" if form == "freeze" else "live")


def test_the_plain_form_raises() -> None:
    with pytest.raises(ValueError, match="broken"):
        made(Inner(fail(ValueError("broken")))).compile()


def test_numbers_that_are_written_to_while_they_are_folded(monkeypatch: Any) -> None:
    monkeypatch.setattr(Program, "fill", lambda self, numbers: None)
    with pytest.raises(RuntimeError, match="while they were folded"):
        made(PLAIN).compile()


def test_without_numbers() -> None:
    """Fake parameters first, then real ones: all are watched, as nobody knew which are read."""
    graph, examples = captured()
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(each) for each in examples]
    layouts: list[torch.Tensor] = []

    def layout(weight: torch.Tensor) -> torch.Tensor:
        layouts.append(weight)
        return weight

    each = made(replace(PLAIN, weight_layout=layout))
    inputs = GraphInputs.of(graph, fakes)
    inner = replace(PLAIN, weight_layout=layout)
    each.function = FoldedFunction(
        graph, inputs, rewrite_captured(graph, inputs), lambda i: rewrite_captured(graph, i), inner
    )
    with torch.no_grad():
        told = each.function.compile(fakes, False, "frozen")
        assert told == ("live", "its parameters had no numbers yet when it was compiled")
        for _ in range(2):
            (answer,) = each.function(*fakes)
            assert isinstance(answer, type(fakes[0]))
    assert each.function._without_numbers is not None
    for write in ("running_mean", "weight"):
        each.parameter(write).mul_(1.5)
        assert each.is_right()
    assert each.function._without_numbers is None
    assert not layouts  # that of the examples
    assert not each.function._programs.packs
    assert set(each.function._programs.watched) == {
        inputs.positions[name] for name in inputs.parameters
    }


def test_without_numbers_the_layout_is_that_of_the_examples() -> None:
    """Compiled code asks for it: parameters may have another, as with channels last."""
    graph, examples = captured()
    last = [
        each.contiguous(memory_format=torch.channels_last) if each.dim() == 4 else each
        for each in examples
    ]
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(each) for each in last]

    def strict(module: Any, inputs: Any) -> Any:
        expected = [each.stride() for each in inputs]

        def run(*args: Any) -> Any:
            assert [each.stride() for each in args] == expected
            return module.forward(*args)

        return run

    each, inputs = made(PLAIN), GraphInputs.of(graph, fakes)
    each.function = FoldedFunction(
        graph,
        inputs,
        rewrite_captured(graph, inputs),
        lambda i: rewrite_captured(graph, i),
        Inner(strict),
    )
    each.args = last
    with torch.no_grad():
        each.function.compile(fakes, False, "live")
        each.function(*fakes)
    for _ in range(2):
        assert each.is_right()
        each.parameter("running_var").mul_(2)


def test_a_fold_that_fails_leaves_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    each = made(PLAIN)
    each.compile()
    each.parameter("running_var").mul_(2)
    with monkeypatch.context() as patch:
        patch.setattr(Programs, "fill", fail(ValueError("broken")))
        with pytest.warns(RewriteWarning, match="folding anew"):
            assert each.is_right()
    assert each.state.program is each.function._programs.original
    each.parameter("running_var").mul_(2)
    assert each.is_right()
    assert each.state.program is each.function._programs.first


def test_what_is_there_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread that waited for another, which made it."""
    each = made(PLAIN)
    each.compile()
    state = each.state
    monkeypatch.setattr(Programs, "fill", fail(ValueError("broken")))
    assert each.function._renew(each.args) is state
    assert each.function._sets.states == (state,)


def test_what_holds_is_served_without_a_lock() -> None:
    each = made(PLAIN)
    each.compile()
    each.function._lock = None  # type: ignore[assignment]
    assert each.is_right()


def test_a_state_without_a_body_for_such_sizes() -> None:
    each = made(PLAIN)
    each.compile()
    each.function._sets.publish(replace(each.state, ways=()))
    assert each.is_right()
    assert each.state.ways


def test_what_another_thread_published_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    each, compile_late, others = made(PLAIN), Program.compile_late, list[Any]()
    each.compile()
    each.spoil()

    def disturbed(self: Program, *args: Any) -> None:
        monkeypatch.setattr(Program, "compile_late", compile_late)
        assert each.is_right()
        others.append(each.state)
        compile_late(self, *args)

    monkeypatch.setattr(Program, "compile_late", disturbed)
    assert each.is_right()
    assert others == [each.state]


def test_a_late_body_is_published_once() -> None:
    """Unless another thread has published meanwhile."""
    compiled: list[Any] = []

    def inner(module: Any, inputs: Any) -> Any:
        compiled.append(module)
        return module.forward

    each = made(Inner(inner))
    each.compile()
    each.spoil()
    assert each.is_right()
    assert len(compiled) == 2
    state = each.state
    assert each.is_right()
    assert each.state is state
