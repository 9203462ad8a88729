"""Which calls may be direct at all, how many ways there are, and what stands around a call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from direct_models import Scaled, check, image
from torch import fx, nn
from torch._dynamo.eval_frame import set_eval_frame
from torch._dynamo.mutation_guard import GenerationTracker
from torch._guards import TracingContext, tracing
from torch.utils._python_dispatch import TorchDispatchMode

from bnfx.direct import direct_calls
from bnfx.direct.shortcut import may_go_past_dynamo
from bnfx.direct.watched import NotDirectError


class Ignored(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def run_only() -> Iterator[None]:
    prior = set_eval_frame(False)
    try:
        yield
    finally:
        set_eval_frame(prior)


def by_tracing(trace: Callable[[Any], object]) -> bool:
    found = list[bool]()

    def traced(x: Any) -> Any:
        found.append(may_go_past_dynamo())
        return x

    trace(traced)
    return found[0]


STATES: dict[str, Callable[[], Any]] = {
    **{
        name: functools.partial(torch.compiler.set_stance, name)
        for name in (
            "force_eager",
            "eager_on_recompile",
            "fail_on_recompile",
            "aot_eager_then_compile",
        )
    },
    "a dispatch mode": Ignored,
    "a context of Dynamo": lambda: tracing(TracingContext(None)),
    "what Dynamo runs only": run_only,
    "a hook": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "a hook before": lambda: nn.modules.module.register_module_forward_pre_hook(lambda *_: None),
    "a hook behind": lambda: nn.modules.module.register_module_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str, call: Any, direct: list[int]) -> None:
    assert may_go_past_dynamo()
    with STATES[name]():
        assert not may_go_past_dynamo()
        assert call._bnfx_calls.find((image(),), {}) is None
        with pytest.raises(NotDirectError, match="a mode or hook is set"):
            call._bnfx_calls._learn((image(),), {})
    assert may_go_past_dynamo()
    call(image())
    assert direct


def test_tracing() -> None:
    with pytest.warns():
        assert not by_tracing(lambda f: torch.jit.trace(f, torch.ones(1)))
    assert not by_tracing(fx.symbolic_trace)
    assert by_tracing(lambda f: f(1))


def test_inference_mode(call: Any, model: Any, direct: list[int]) -> None:
    """Dynamo's guards compare with the mode of the call, those that are left with another one."""
    before, x = len(direct), image()
    with torch.inference_mode():
        call(x)
        assert len(direct) == before
        call(x)
        assert len(direct) == before + 1
    check(call, call._orig_mod, image())
    assert len(direct) >= before + 3


def test_each_call_is_a_step(call: Any, direct: list[int]) -> None:
    """CUDA graphs of Inductor let go of the answers of earlier steps."""
    for compiled_call in (torch.compile(Scaled().eval(), backend="eager"), call):
        compiled_call(image())
        before = GenerationTracker.generation
        compiled_call(image())
        assert GenerationTracker.generation == before + 1
    assert direct


def test_keywords(call: Any, model: Any, direct: list[int]) -> None:
    check(call, model, x=image())
    check(call, model, image(), z=1)
    assert len(direct) >= 4
    for arguments in ({"self": 1}, {"x": 1}):
        with pytest.raises(TypeError):
            call(image(), **arguments)


def test_as_many_as_can_be(call: Any, model: Any, direct: list[int]) -> None:
    """The oldest goes first."""
    calls, most = call._bnfx_calls, direct_calls.MAX_SHORTCUTS
    for size in range(4, 4 + most):
        check(call, model, image(1, 2, size, size))
    assert len(calls._known[1]) == most
    before = len(direct)
    for size in range(4 + most - 1, 2, -1):
        call(image(1, 2, size, size))
    assert len(direct) == before + most


def test_what_no_longer_holds_is_let_go(call: Any, model: Any) -> None:
    calls = call._bnfx_calls
    check(call, model, image(1, 2, 4, 4))
    assert len(calls._known[1]) == 2
    model.factor = 3.0
    assert calls.find((image(),), {}) is None
    assert calls._known[1] == ()
    check(call, model, image())
    torch._dynamo.reset()
    assert calls.find((image(),), {}) is None
    assert calls._known[1] == ()
    check(call, model, image())
    assert len(calls._known[1]) == 1


def test_another_function_has_its_own(call: Any, model: Any, direct: list[int]) -> None:
    """What was made for one forward is not asked with the variables of another."""
    plain = type(model).forward
    try:
        Scaled.forward = lambda self, a, b=3: self.norm(a) * b  # type: ignore[assignment]
        check(call, model, image(1, 2, 4, 4))
        assert len(call._bnfx_calls._known[1]) == 1
    finally:
        Scaled.forward = plain  # type: ignore[method-assign]
    check(call, model, image())
    assert direct


def test_how_long_may_be_spent(call: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, tried = call._bnfx_calls, list[int]()
    clock = iter([100.0, 101.0, 110.0, 119.9, 121.0, 122.0, 130.0])
    monkeypatch.setattr(direct_calls, "SHARE", 0.05)
    monkeypatch.setattr(direct_calls.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(calls, "_learn", lambda *_: tried.append(1))
    calls._not_before = 100.0
    counts = []
    for _ in range(5):
        calls.learn((), {})
        counts.append(len(tried))
    assert counts == [1, 1, 1, 2, 2], "a second, then not for twenty"


@pytest.mark.parametrize(
    ("error", "why"),
    [(ValueError("so"), "ValueError: so"), (NotDirectError("not"), "not")],
)
def test_why_not(
    error: Exception, why: str, call: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error

    calls = call._bnfx_calls
    assert calls.why_not == ""
    monkeypatch.setattr(calls, "_look", fail)
    with caplog.at_level("INFO", logger="bnfx"):
        calls.learn((image(),), {})
    assert calls.why_not == why
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == ([error] if isinstance(error, ValueError) else [])
    monkeypatch.undo()
    calls._not_before = 0.0
    calls.learn((image(),), {})
    assert calls.why_not == ""
