"""The local variables of a call are those that Python binds, or there are none."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfx.direct import frame as frames
from bnfx.direct.frame import Frame
from bnfx.direct.watched import NotDirectError, Watched


def with_closure() -> Any:
    factor = 7
    return lambda self, x, k=1, **more: {**locals(), "factor": factor}


def unset() -> Any:
    function = lambda self, x: factor * x  # noqa: E731
    if function is None:
        factor = 1
    return function


def with_more_defaults() -> Any:
    """A default for what is no parameter, which Python ignores."""
    function: Any = lambda self, x, *, k=3: locals()  # noqa: E731
    function.__kwdefaults__ = {"k": 4, "z": 5, "y": 6}
    return function


SIGNATURES: dict[str, Any] = {
    "x": lambda self, x: locals(),
    "x, y=2": lambda self, x, y=2: locals(),
    "x=1, y=2": lambda self, x=1, y=2: locals(),
    "x, *, k=3": lambda self, x, *, k=3: locals(),
    "x, *rest": lambda self, x, *rest: locals(),
    "x, *rest, k=3": lambda self, x, *rest, k=3: locals(),
    "x, **more": lambda self, x, **more: locals(),
    "this, x, y=2, *rest, k=3, **more": lambda this, x, y=2, *rest, k=3, **more: locals(),
    "a closure": with_closure(),
    "more defaults": with_more_defaults(),
    "none": lambda self: locals(),
    "local variables behind": lambda self, x, *, k=3: (lambda a, b: {**a})(locals(), k),
}
CALLS = [
    (args, dict.fromkeys(names, 9))
    for args in [(), (1,), (1, 2), (1, 2, 3)]
    for count in range(3)
    for names in itertools.combinations(["x", "y", "k", "z", "this", "rest", "factor"], count)
]


def model_of(forward: Any) -> nn.Module:
    found: nn.Module = type("Kind", (nn.Module,), {"forward": forward})()
    return found.eval()


@pytest.mark.parametrize("name", SIGNATURES)
def test_local_variables(name: str) -> None:
    model = model_of(SIGNATURES[name])
    frame = Frame.of(model, model.__call__)
    served = 0
    for args, kwargs in CALLS:
        scope = frame.scope(args, kwargs)
        try:
            expected = model.forward(*args, **kwargs)
        except TypeError:
            assert scope is None, (args, kwargs)
            continue
        # A keyword that is called as a variable around the function is left to torch.
        assert scope == expected or "factor" in kwargs, (args, kwargs)
        served += scope is not None
    assert served >= 2 or name == "none"


def of_its_own(name: str) -> Any:
    def change(model: Any) -> None:
        setattr(model, name, getattr(model, name))

    return change


def of_its_class(name: str, value: Any) -> Any:
    def change(model: Any) -> None:
        setattr(type(model), name, value)

    return change


OTHERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "__call__": (of_its_class("__call__", lambda self, x: x), "is no function|__call__ of its own"),
    "_call_impl": (of_its_class("_call_impl", lambda self, x: x), "_call_impl of its own"),
    "its own _call_impl": (of_its_own("_call_impl"), "_call_impl of its own"),
    "its own _wrapped_call_impl": (of_its_own("_wrapped_call_impl"), "_wrapped_call_impl of its"),
    "a forward that is no method": (lambda m: setattr(m, "forward", lambda x: x), "no method"),
    "another's forward": (
        lambda m: setattr(m, "forward", model_of(lambda self, x: x).forward),
        "no method of its own",
    ),
    "a forward in C": (
        lambda m: setattr(m, "forward", types.MethodType(abs, m)),
        "is no function in Python",
    ),
    "a property": (
        of_its_class("forward", property(lambda self: self.first)),
        "computes what its forward is",
    ),
    "a function of the class": (
        of_its_class("forward", classmethod(lambda cls, x: x)),
        "computes what its forward is",
    ),
    "attributes of its own making": (
        of_its_class("__getattribute__", lambda self, name: object.__getattribute__(self, name)),
        "has a __getattribute__",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_a_model_may_do_before_its_forward(name: str) -> None:
    model = type("Own", (type(model_of(lambda self, x: x)),), {"first": lambda self, x: x})()
    change, why = OTHERS[name]
    Frame.of(model, model.__call__)
    change(model)
    with pytest.raises(NotDirectError, match=why):
        Frame.of(model, model.__call__)


FORWARDS: dict[str, tuple[Any, str]] = {
    "by position alone": (lambda self, x, /, y=2: x, "by position alone"),
    "without self": (lambda *all_of_them: all_of_them, "by position alone"),
    "by keyword": (lambda self, x, *, k: x, "arguments by keyword"),
    "a variable that is not set": (unset(), "not set yet"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_that_are_torchs(name: str) -> None:
    forward, why = FORWARDS[name]
    model = model_of(forward)
    with pytest.raises(NotDirectError, match=why):
        Frame.of(model, model.__call__)


def test_self_by_position_alone() -> None:
    model = model_of(lambda self, /, x, **more: {**locals()})
    assert Frame.of(model, model.__call__).scope((), {"x": 1, "y": 2}) == model.forward(x=1, y=2)


def test_the_call_of_another_model() -> None:
    one, other = (model_of(lambda self, x: x) for _ in range(2))
    with pytest.raises(NotDirectError, match="__call__ of its own"):
        Frame.of(one, other.__call__)
    for entered in (None, abs, one.forward):
        with pytest.raises(NotDirectError):
            Frame.of(one, entered)


def test_a_module_that_was_patched_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tool puts around all calls runs in each of them."""
    plain = nn.Module.__call__

    @functools.wraps(plain)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs)

    model = model_of(lambda self, x: x)
    monkeypatch.setattr(nn.Module, "__call__", noted)
    with pytest.raises(NotDirectError, match="__call__ of its own"):
        Frame.of(model, model.__call__)
    monkeypatch.setitem(frames._TORCHS, "__call__", noted)
    with pytest.raises(NotDirectError, match="was patched"):
        Frame.of(model, model.__call__)


def test_the_same_frame() -> None:
    """Tensors around a function are asked which they are, not whether they equal."""

    one, other = torch.ones(2), torch.ones(2)
    model = model_of(lambda self, x, y=one: x)
    frame = Frame.of(model, model.__call__)
    assert frame.is_same(Frame.of(model, model.__call__))
    function: Any = type(model).forward
    for defaults in ((other,), (), (1,), (True,)):
        function.__defaults__ = defaults
        assert not frame.is_same(Frame.of(model, model.__call__))
    function.__defaults__ = (one,)
    assert frame.is_same(Frame.of(model, model.__call__))
    function.__code__ = (lambda self, x, y: x + y).__code__
    assert not frame.is_same(Frame.of(model, model.__call__))
    twin = type(model)()
    assert not frame.is_same(Frame.of(twin, twin.__call__))
    twice = [model_of(types.FunctionType(function.__code__, {})) for _ in range(2)]
    first, second = (Frame.of(each, each.__call__) for each in twice)
    assert not first.is_same(second), "another function"


READ_FROM: dict[str, Callable[[Any], object]] = {
    "its code": lambda f: setattr(f, "__code__", f.__code__.replace(co_firstlineno=1)),
    "its defaults": lambda f: setattr(f, "__defaults__", (3,)),
    "its defaults by name": lambda f: setattr(f, "__kwdefaults__", {"k": 3}),
    "one of them": lambda f: f.__kwdefaults__.update(k=4),
    "a variable around it": lambda f: setattr(f.__closure__[0], "cell_contents", 8),
}


@pytest.mark.parametrize("name", READ_FROM)
def test_what_a_frame_is_read_from(name: str) -> None:
    def own(self: Any, x: Any, y: Any = 1, *, k: Any = 2) -> Any:
        return factor

    factor = 7
    model, watched = model_of(own), Watched()
    Frame.of(model, model.__call__).watch(watched)
    holds = watched.holds()
    assert holds()
    READ_FROM[name](own)
    assert not holds()
