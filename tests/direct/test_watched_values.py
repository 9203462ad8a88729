"""Values in a model whose guards are left out: every assignment is seen by what watches instead."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import torch
from direct_guards import (
    Case,
    Change,
    Guards,
    a_function,
    cell,
    doubled,
    folded,
    last,
    ones,
    put,
    scaled,
    seen_by,
    through,
    times,
)
from torch import nn

from bnfx.direct.guard_tree import without_model
from bnfx.direct.watched import NotDirectError, Watched


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Numbered(nn.Module):
    number = 3

    def forward(self, x: Any) -> Any:
        return x * self.number


WATCHED: dict[str, Case] = {
    "an item of a dict": (
        lambda: {"a": 1, "b": 2},
        lambda s, x: x * s.v["a"],
        (lambda m: m.v.update(a=3), lambda m: m.v.pop("a"), lambda m: m.v.update(c=3)),
    ),
    "the length of a dict": (
        lambda: {"a": 1},
        lambda s, x: x * len(s.v),
        (lambda m: m.v.update(c=3), lambda m: m.v.clear()),
    ),
    "the order of a dict": (
        lambda: {"a": 1, "b": 2},
        lambda s, x: folded(s.v.values(), x),
        (last, lambda m: m.v.update(c=1)),
    ),
    "the keys of a dict": (
        lambda: {"a": 1, "b": 2},
        lambda s, x: x * (2 if next(iter(s.v)) == "a" else 3),
        (last,),
    ),
    "what a dict lacks": (
        lambda: {"a": 1},
        lambda s, x: x * s.v.get("z", 3) * (2 if "y" in s.v else 1),
        (lambda m: m.v.update(z=1), lambda m: m.v.update(y=1)),
    ),
    "keys of other classes": (
        lambda: {2: 5, Color.RED: 1, (1, "a"): 2},
        lambda s, x: x * s.v[2] * s.v[Color.RED] * s.v[1, "a"],
        (
            lambda m: m.v.update({2: 7}),
            lambda m: m.v.update({Color.RED: 7}),
            lambda m: m.v.update({(1, "a"): 7}),
        ),
    ),
    "a number": (lambda: 1, lambda s, x: x * s.v, (put(v=2), put(v=True), put(v=1.0))),
    "a fraction": (lambda: 1.5, lambda s, x: x * s.v, (put(v=2.5), put(v=2))),
    "text": (lambda: "a", lambda s, x: x * (2 if s.v == "a" else 3), (put(v="b"),)),
    "None": (lambda: None, lambda s, x: x * (2 if s.v is None else 3), (put(v=1),)),
    "a dtype": (lambda: torch.float64, lambda s, x: x.to(s.v), (put(v=torch.float16),)),
    "a device": (lambda: torch.device("cpu"), lambda s, x: x.to(s.v) * 2, (put(v="meta"),)),
    "sizes": (lambda: torch.Size([1, 2]), lambda s, x: x.reshape(s.v), (put(v=torch.Size([2])),)),
    "a function": (lambda: doubled, lambda s, x: s.v(x), (put(v=scaled),)),
    "the code of a function": (
        a_function,
        lambda s, x: s.v(x),
        (
            lambda m: setattr(m.v, "__code__", (lambda a, k=1, *, j=1: a).__code__),
            lambda m: m.v.__kwdefaults__.update(j=9),
            lambda m: setattr(m.v, "__kwdefaults__", {"j": 8}),
        ),
    ),
    "a closure": (
        lambda: times(2),
        lambda s, x: s.v(x),
        (lambda m: setattr(cell(m), "cell_contents", 5), lambda m: put(v=times(6))(m)),
    ),
    "a tensor in a closure": (
        lambda: times(ones()),
        lambda s, x: s.v(x),
        (
            lambda m: setattr(cell(m), "cell_contents", ones(1)),
            lambda m: cell(m).cell_contents.requires_grad_(),
        ),
    ),
    "a tensor": (
        ones,
        lambda s, x: x * s.v * (2 if s.v.requires_grad else 3),
        (
            lambda m: put(v=ones(1))(m),
            lambda m: setattr(m.v, "data", ones(1)),
            lambda m: setattr(m.v, "data", ones(dtype=torch.float64)),
            lambda m: m.v.requires_grad_(),
            lambda m: put(v=nn.Parameter(ones()))(m),
        ),
    ),
    "tensors in a dict": (
        lambda: {"a": ones(), "b": ones()},
        lambda s, x: x * s.v["a"] * s.v["b"],
        (lambda m: m.v.update(b=m.v["a"]), lambda m: m.v.update(b=ones(1))),
    ),
    "a layer": (
        lambda: nn.Linear(2, 2),
        lambda s, x: s.v(x),
        (
            lambda m: put(v=nn.Linear(2, 3))(m),
            lambda m: put(forward=lambda x: x)(m.v),
            lambda m: m.v.register_parameter("bias", None),
            lambda m: setattr(m.v, "__class__", nn.Bilinear),
            lambda m: m.v.weight.requires_grad_(False),
        ),
    ),
    "a layer that reads its class": (
        Numbered,
        lambda s, x: s.v(x),
        (
            lambda m: put(forward=lambda x: x)(m.v),
            lambda m: put(other=5)(m.v),
            lambda m: setattr(m.v, "__class__", nn.ReLU),
        ),
    ),
    "a list of layers": (
        lambda: nn.ModuleList([nn.ReLU(), nn.Sigmoid()]),
        lambda s, x: through(s.v, x),
        (
            lambda m: m.v.append(nn.Tanh()),
            lambda m: m.v.__setitem__(0, nn.Tanh()),
            lambda m: m.v.__delitem__(0),
        ),
    ),
    "layers by name": (
        lambda: nn.ModuleDict({"a": nn.ReLU(), "b": nn.Sigmoid()}),
        lambda s, x: through(s.v.values(), x),
        (lambda m: m.v.update({"c": nn.Tanh()}), lambda m: m.v.update({"a": nn.Tanh()}), last),
    ),
    "layers in a tuple": (
        lambda: (nn.Linear(2, 2), nn.ReLU()),
        lambda s, x: through(s.v, x),
        (
            lambda m: put(forward=lambda x: x)(m.v[0]),
            lambda m: m.v[0].register_parameter("bias", None),
            lambda m: put(v=(m.v[0], nn.Tanh()))(m),
        ),
    ),
    "modes": (
        lambda: nn.Dropout(0.5),
        lambda s, x: s.v(x) * (2 if s.training else 3),
        (lambda m: m.v.train(), put(training=True)),
    ),
    "the class of a layer": (
        nn.ReLU,
        lambda s, x: x * (2 if isinstance(s.v, nn.ReLU) else 3),
        (lambda m: put(v=nn.Tanh())(m), lambda m: setattr(m.v, "__class__", nn.Tanh)),
    ),
    "an attribute that a layer lacks": (
        nn.ReLU,
        lambda s, x: x * (2 if hasattr(s.v, "scale") else 3),
        (
            lambda m: put(scale=1)(m.v),
            lambda m: m.v.register_buffer("scale", ones()),
            lambda m: m.v.register_parameter("scale", nn.Parameter(ones())),
            lambda m: m.v.add_module("scale", nn.ReLU()),
        ),
    ),
}


@pytest.mark.parametrize("name", WATCHED)
def test_a_value_that_is_watched(name: str) -> None:
    assert seen_by(WATCHED[name]) == {(False, True)}


class Parts(nn.Module):
    number = 3

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 1

    def part(self, x: Any) -> Any:
        return x * 2

    @classmethod
    def of_class(cls) -> int:
        return cls.number


def _anew() -> type[Any]:
    """A class, and one that it is derived from, which may both be changed."""
    base = type("Base", (Parts,), {"number": 3, "part": lambda s, x: x * 2, "numbers": {"a": 1}})
    return type(
        "Derived",
        (base,),
        {"forward": lambda s, x: s.part(x) * s.number * s.of_class() * s.numbers["a"] * s.v},
    )


CLASSES: dict[str, Change] = {
    "a number of the class": lambda m: setattr(type(m), "number", 4),
    "a number of its base": lambda m: setattr(type(m).__mro__[1], "number", 4),
    "a method of the class": lambda m: setattr(type(m), "part", lambda s, x: x * 3),
    "a method of its base": lambda m: setattr(type(m).__mro__[1], "part", lambda s, x: x * 3),
    "a method of its own": lambda m: put(part=lambda x: x * 3)(m),
    "a number of its own": lambda m: put(number=5)(m),
    "an item of a dict of its base": lambda m: type(m).numbers.update(a=9),
    "another class": lambda m: setattr(m, "__class__", _anew()),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class(name: str) -> None:
    model, x = _anew()().eval(), ones()
    guards = Guards.of(model, x)
    assert guards.say(x) == (True, True, True)
    CLASSES[name](model)
    dynamo, holds, fits = guards.say(x)
    assert not (holds and fits), dynamo


@pytest.mark.parametrize("root", [object(), None, nn.ReLU()])
def test_guards_of_another_torch(root: Any) -> None:
    with pytest.raises(NotDirectError, match="the guards of this torch cannot be taken apart"):
        without_model(root, nn.ReLU(), {}, Watched())
