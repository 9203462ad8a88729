"""What runs around a call, and who wraps it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from direct_models import Scaled, check, compiled, image
from torch import nn
from torch._dynamo import eval_frame

from bnfx.direct import shortcut
from bnfx.direct.watched import Watched

HOOKS: dict[str, Callable[[Any], Any]] = {
    "forward": lambda m: m.register_forward_hook(lambda module, args, out: out * 3),
    "forward, before": lambda m: m.register_forward_pre_hook(lambda module, args: args[0] * 3),
    "backward": lambda m: m.register_full_backward_hook(lambda *_: None),
    "backward, before": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("on_model", [False, True])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks(name: str, on_model: bool, call: Any, model: Any, direct: list[int]) -> None:
    def add() -> Any:  # a hook for the compiled model is registered with it, not with the model
        return HOOKS[name](model) if on_model else HOOKS[name](call)

    x = image()
    before, expected = len(direct), call(x) * (3 if name == "forward" else 1)
    handle = add()
    for _ in range(3):
        answer = call(x)
        if name == "forward":
            torch.testing.assert_close(answer, expected)
    assert len(direct) == before + 1
    assert call._bnfx_calls.why_not == "the model has hooks"
    handle.remove()
    check(call, model, x)
    assert len(direct) > before + 1


def test_hooks_of_saving_and_loading(model: Any, direct: list[int]) -> None:
    """They run in no call."""
    model.register_state_dict_post_hook(lambda *_: None)
    model.register_state_dict_pre_hook(lambda *_: None)
    model.register_load_state_dict_pre_hook(lambda *_: None)
    model.register_load_state_dict_post_hook(lambda *_: None)
    with torch.no_grad():
        check(compiled(model), model, image())
    assert direct


def test_a_model_that_compiled_itself(call: Any, model: Any, direct: list[int]) -> None:
    before = len(direct)
    model.compile(backend="eager")
    check(call, model, image())
    assert len(direct) == before
    assert call._bnfx_calls.why_not


def test_who_wraps_what_was_compiled(call: Any, model: Any, direct: list[int]) -> None:
    x, plain, seen = image(), call.forward, list[str]()
    expected = call(x)
    for wrapped in (model.__call__, plain):

        @functools.wraps(wrapped)
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.append("called")
            return plain(*args, **kwargs)

        call.forward = noted
        seen.clear()
        for _ in range(3):
            torch.testing.assert_close(call(x), expected)
        assert len(seen) == 3
        assert call._bnfx_calls.why_not
    call.forward = plain
    check(call, model, x)


def test_a_forward_that_was_there_before(call: Any, model: Any, direct: list[int]) -> None:
    """Once it is back, nothing is asked with the variables of the one between."""

    def other(self: Any, a: torch.Tensor, x: Any = image(), y: Any = None) -> Any:  # noqa: B008
        return self.norm(a + x)

    check(call, model, image())
    model.forward = types.MethodType(other, model)
    check(call, model, image(), x=image())
    del model.forward
    check(call, model, image())
    assert len(direct) >= 4


def test_modes_of_the_model_alone(call: Any, model: Any, direct: list[int]) -> None:
    before = len(direct)
    model.training = True
    for _ in range(3):
        torch.testing.assert_close(call(x := image()), model(x))
    assert len(direct) == before
    assert call._bnfx_calls.why_not == "the model is in training mode"


def test_what_dynamo_does_not_compile(call: Any, model: Any, direct: list[int]) -> None:
    before = len(direct)
    with torch._dynamo.config.patch(recompile_limit=1):
        check(call, model, image(1, 2, 4, 4))
    assert len(direct) == before
    assert call._bnfx_calls.why_not == "Dynamo compiled nothing for such a call"


def test_guards_that_do_not_hold_by_themselves(
    call: Any, model: Any, direct: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "without_model", lambda *_: lambda _: False)
    model.unused = 1
    check(call, model, image())
    assert not direct
    assert call._bnfx_calls.why_not == "the guards that are left do not hold by themselves"
    assert call._bnfx_calls._known[1] == ()


def test_another_backend(
    call: Any, model: Any, direct: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the graphs of a model Dynamo names first, as other threads may call, too."""

    def negate(graph: Any, _: Any) -> Any:
        return lambda *args: [-out for out in graph(*args)]

    other, listed = torch.compile(model, backend=negate), eval_frame._debug_get_cache_entry_list
    x = image(1, 2, 5, 5)
    for turned in (listed, lambda code: [*reversed(listed(code))]):
        monkeypatch.setattr(eval_frame, "_debug_get_cache_entry_list", turned)
        model.unused, before = object(), len(direct)
        torch.testing.assert_close(other(x), -model(x))
        check(call, model, x)
        assert len(direct) == before + 2


def test_attributes_that_are_called_hooks(direct: list[int]) -> None:
    model: Any = Scaled().eval()
    model.own_hooks, model.more_hooks = [], [1]
    with torch.no_grad():
        check(compiled(model), model, image())
    assert direct


def test_what_another_thread_assigns_at_last(
    call: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, look = call._bnfx_calls, type(call._bnfx_calls)._look

    def look_and_assign(*args: Any) -> Any:
        found = look(*args)
        model.unused = object()
        return found

    model.unused = 1
    monkeypatch.setattr(type(calls), "_look", look_and_assign)
    call(image())
    assert calls.why_not == "something was assigned meanwhile"
    assert calls._known[1] == ()


def test_a_layer_that_another_thread_puts_in(
    call: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks: the first has not seen what is in it."""
    note, other = Watched.holds, nn.BatchNorm2d(2).double().eval()

    def put_in_and_note(self: Watched) -> Any:
        model.norm = other
        return note(self)

    model.factor, model.norm = 1.0, nn.BatchNorm2d(2).double().eval()
    monkeypatch.setattr(Watched, "holds", put_in_and_note)
    call(image())
    assert model.norm is other
    assert call._bnfx_calls.why_not == "something was assigned meanwhile"
    monkeypatch.undo()
    check(call, model, image())
    other.eps = 0.5
    check(call, model, image())


def test_a_keyword_that_is_called_as_a_variable_around(direct: list[int]) -> None:
    factor = 2.0

    class Around(Scaled):
        def forward(self, x: torch.Tensor, **more: Any) -> Any:  # type: ignore[override]
            return self.norm(x) * factor * more.get("factor", 1.0)

    model = Around().eval()
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image(), factor=3.0)
        assert not direct
        assert call._bnfx_calls.why_not == "its arguments do not fit"
        check(call, model, image())
        check(call, model, image(), factor=4.0)
    assert direct
