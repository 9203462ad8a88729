"""What can be watched, and what of it is seen."""

from __future__ import annotations

import enum
import functools
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from bnfx.direct.watched import (
    NotDirectError,
    Watched,
    is_one,
    is_unchanging,
    own_attribute,
    vars_of,
)
from bnfx.native import loader


class Color(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: Any
    b: Any


class Subclass(torch.Tensor):
    pass


class Metaclass(type):
    pass


class Made(metaclass=Metaclass):
    pass


def function(x: Any = 1, *, y: Any = 2) -> Any:
    return x


def around(value: Any) -> Any:
    return lambda: value


VALUES: dict[str, tuple[Any, bool, bool]] = {
    # a value; whether nothing but what is watched can change what guards see of it; which it is
    "True": (True, True, False),
    "1": (1, True, False),
    "1.5": (1.5, True, False),
    "1j": (1j, True, False),
    "text": ("text", True, False),
    "bytes": (b"bytes", True, False),
    "None": (None, True, False),
    "...": (..., True, False),
    "a builtin": (len, True, False),
    "an operator": (torch.nn.functional.linear, True, False),
    "a dtype": (torch.float32, True, False),
    "a device": (torch.device("cpu"), True, False),
    "a layout": (torch.strided, True, False),
    "a memory format": (torch.channels_last, True, False),
    "a tuple": ((1, ("a", None)), True, False),
    "a tuple of nothing": ((), True, False),
    "sizes": (torch.Size([1, 2]), True, False),
    "a frozen set": (frozenset({1, "a"}), True, False),
    "a tuple with a list": ((1, [2]), False, False),
    "a tuple of a list": (([2], 1), False, False),
    "a named tuple": (Pair(1, 2), False, False),
    "a list": ([], False, False),
    "a set": ({1}, False, False),
    "an enumeration": (Color.RED, False, False),
    "a dict": ({"a": []}, True, False),
    "an OrderedDict": (OrderedDict(), False, False),
    "a defaultdict": (defaultdict(int), False, False),
    "a tensor": (torch.ones(1), True, False),
    "a parameter": (nn.Parameter(torch.ones(1)), True, False),
    "a buffer": (nn.Buffer(torch.ones(1)), True, False),
    "a subclass": (torch.ones(1).as_subclass(Subclass), False, False),
    "a sparse tensor": (torch.eye(2).to_sparse(), False, False),
    "a module": (nn.ReLU(), True, False),
    "a function": (function, False, True),
    "code": (function.__code__, False, True),
    "a cell": (around(1).__closure__[0], False, True),
    "a class": (nn.ReLU, False, True),
    "a class of another making": (Made, False, False),
    "a method": (nn.ReLU().forward, False, False),
    "a partial function": (functools.partial(function), False, False),
    "an object": (types.SimpleNamespace(), False, False),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_can_be_watched(name: str) -> None:
    value, watched, one = VALUES[name]
    assert Watched().add(value) is watched
    assert is_one(value) is one
    held = (dict, torch.Tensor, nn.Module)
    assert is_unchanging(value) is (watched and not isinstance(value, held))


class Layer(nn.ReLU):
    number = 1


def holder() -> Any:
    return types.FunctionType(function.__code__, {}, "f", (1,))


SEEN: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "an attribute": (nn.ReLU, lambda m: setattr(m, "inplace", True)),
    "another attribute": (nn.ReLU, lambda m: setattr(m, "other", 1)),
    "no attribute": (nn.ReLU, lambda m: delattr(m, "inplace")),
    "all attributes": (nn.ReLU, lambda m: setattr(m, "__dict__", dict(m.__dict__))),
    "another class": (nn.ReLU, lambda m: setattr(m, "__class__", nn.Sigmoid)),
    "a class": (lambda: type("Own", (Layer,), {})(), lambda m: setattr(type(m), "number", 2)),
    "its base": (
        lambda: type("Own", (type("Base", (Layer,), {}),), {})(),
        lambda m: setattr(type(m).__mro__[1], "number", 2),
    ),
    "an item": (lambda: {"a": 1}, lambda d: d.update(a=2)),
    "one item more": (dict, lambda d: d.update(a=2)),
    "the order": (lambda: {"a": 1, "b": 2}, lambda d: d.update(a=d.pop("a"))),
    "code": (holder, lambda f: setattr(f, "__code__", (lambda x: x).__code__)),
    "defaults": (holder, lambda f: setattr(f, "__defaults__", (2,))),
    "defaults by name": (holder, lambda f: setattr(f, "__kwdefaults__", {"y": 1})),
    "a cell": (lambda: around(1).__closure__[0], lambda c: setattr(c, "cell_contents", 2)),
    "the size of a tensor": (lambda: torch.ones(2), lambda t: setattr(t, "data", torch.ones(3))),
    "its dtype": (lambda: torch.ones(2), lambda t: setattr(t, "data", torch.ones(2).double())),
    "its strides": (lambda: torch.ones(2, 2), lambda t: setattr(t, "data", t.data.t())),
    "its gradient": (lambda: torch.ones(2), lambda t: t.requires_grad_()),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_is_seen(name: str) -> None:
    make, change = SEEN[name]
    watched, value = Watched(), make()
    watched.add(value)
    holds = watched.holds()
    assert holds()
    assert holds()
    change(value)
    assert not holds()


def test_what_is_written_to_a_tensor_is_not_seen_here() -> None:
    watched, value = Watched(), torch.ones(2)
    watched.add(value)
    holds = watched.holds()
    value.mul_(2)
    value.data = torch.ones(2)
    assert holds()


def test_dicts_that_must_be_empty() -> None:
    watched, hooks = Watched(), OrderedDict[str, int]()
    watched.add_empty(hooks)
    holds = watched.holds()
    assert holds()
    hooks["a"] = 1
    assert not holds()
    with pytest.raises(NotDirectError, match="hooks"):
        Watched().add_empty(hooks)


def test_what_is_watched_here_and_there() -> None:
    one, other = Watched(), Watched()
    layer, more = nn.ReLU(), [{"a": 1}, torch.ones(1), nn.Sigmoid(), function, around(1), Color]
    for each in (one, other):
        each.add(layer)
    assert one.includes(other)
    for value in (*more, around(1).__closure__[0]):
        one.add(value)
        assert one.includes(other)
        assert not other.includes(one)
        other.add(value)
        assert other.includes(one)


def test_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "check_type", lambda: None)
    with pytest.raises(NotDirectError, match="no native check yet"):
        Watched().holds()


class Own(nn.Module):
    shadowed = 1

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(shadowed=2, own=3, computed="hidden", deleted="hidden", method=4)

    computed = property(lambda self: 5)
    both: Any = None
    deleted: Any = None

    def method(self) -> None: ...


class Other(Own):
    __getattribute__ = lambda self, name: 6  # noqa: E731


class Descriptor:
    def __get__(self, owner: Any, kind: Any) -> Any:
        return 7


class Deleting(Descriptor):
    def __delete__(self, owner: Any) -> None: ...


Own.both, Own.deleted = Descriptor(), Deleting()


@pytest.mark.parametrize("name", ["shadowed", "own", "method"])
def test_attributes_of_its_own(name: str) -> None:
    model = Own()
    assert own_attribute(model, name) == getattr(model, name) == vars_of(model)[name]


@pytest.mark.parametrize("name", ["computed", "deleted", "both", "missing", "__class__"])
def test_attributes_of_its_class(name: str) -> None:
    with pytest.raises(NotDirectError, match=f"Own.{name} is no attribute of its own"):
        own_attribute(Own(), name)


def test_an_attribute_before_that_of_its_class() -> None:
    model = Own()
    vars(model)["both"] = 8
    assert own_attribute(model, "both") == model.both == 8


def test_attributes_that_a_class_looks_up() -> None:
    other: Any = Own()
    other.__class__ = Other
    with pytest.raises(NotDirectError, match="Other has a __getattribute__"):
        own_attribute(other, "own")


def test_attributes_whatever_a_class_says() -> None:
    class Hiding(Own):
        __dict__ = property(lambda self: {"own": 9})  # type: ignore[assignment]

    model: Any = Own()
    model.__class__ = Hiding
    assert model.__dict__ == {"own": 9}
    assert vars_of(model)["own"] == own_attribute(model, "own") == model.own == 3
    watched = Watched()
    watched.add(model)
    holds = watched.holds()
    assert holds()
    model.own = 4
    assert not holds()
