"""Values in a model that nobody can watch: their guards are left, and what the call gives, too."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from direct_guards import (
    Case,
    Guards,
    Plain,
    cell,
    folded,
    last,
    ones,
    put,
    scaled,
    seen_by,
    times,
)
from torch import nn


class Pair(NamedTuple):
    a: int
    b: list[int]


@dataclasses.dataclass
class Fields:
    a: int = 1


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


ORDERED: dict[str, Case] = {
    f"{name} of {kind.__name__}": (functools.partial(kind, *first), read, changes)
    for kind, first in (
        (OrderedDict, ({"a": 1, "b": 2},)),
        (defaultdict, (int, {"a": 1, "b": 2})),
        (Counter, ({"a": 1, "b": 2},)),
    )
    for name, read, changes in (
        ("an item", lambda s, x: x * s.v["a"], (lambda m: m.v.update(a=5), lambda m: m.v.pop("a"))),
        ("the length", lambda s, x: x * len(s.v), (lambda m: m.v.update(c=5),)),
        (
            "what is missing",
            lambda s, x: x * (2 if "z" in s.v else 3),
            (lambda m: m.v.update(z=5),),
        ),
        (
            "the order",
            lambda s, x: folded(s.v.values(), x),
            (last, lambda m: m.v.update(c=1), lambda m: m.v.update(b=7)),
        ),
    )
}
GUARDED: dict[str, Case] = {
    **ORDERED,
    "an item of a list": (
        lambda: [1, 2],
        lambda s, x: x * s.v[0],
        (lambda m: m.v.__setitem__(0, 5), lambda m: m.v.append(3), lambda m: m.v.reverse()),
    ),
    "the length of a list": (lambda: [1], lambda s, x: x * len(s.v), (lambda m: m.v.append(3),)),
    "a list in a dict": (
        lambda: {"a": {"b": [1]}},
        lambda s, x: x * s.v["a"]["b"][0],
        (lambda m: m.v["a"]["b"].__setitem__(0, 3),),
    ),
    "a set": (
        lambda: {1, 2},
        lambda s, x: x * (2 if 1 in s.v else 3) * len(s.v),
        (lambda m: m.v.discard(1), lambda m: m.v.add(5)),
    ),
    "a queue": (lambda: deque([1]), lambda s, x: x * s.v[0], (lambda m: m.v.appendleft(5),)),
    "a list in a tuple": (
        lambda: Pair(1, [2]),
        lambda s, x: x * s.v.a * s.v.b[0],
        (lambda m: m.v.b.__setitem__(0, 4),),
    ),
    "fields": (Fields, lambda s, x: x * s.v.a, (lambda m: put(a=4)(m.v),)),
    "slots": (Slots, lambda s, x: x * s.v.a, (lambda m: put(a=4)(m.v),)),
    "objects": (
        lambda: Plain(a=1, b=Plain(c=2)),
        lambda s, x: x * s.v.a * s.v.b.c * (2 if hasattr(s.v, "z") else 3),
        (
            lambda m: put(a=4)(m.v),
            lambda m: put(c=4)(m.v.b),
            lambda m: put(b=Plain(c=7))(m.v),
            lambda m: put(z=7)(m.v),
        ),
    ),
    "the class of an object": (
        lambda: Plain(a=1),
        lambda s, x: x * (2 if type(s.v) is Plain else 3),
        (lambda m: setattr(m.v, "__class__", Fields),),
    ),
    "a number of the class of an object": (
        lambda: type("Numbered", (Plain,), {"number": 3})(),
        lambda s, x: x * s.v.number,
        (lambda m: put(number=4)(type(m.v)),),
    ),
    "a list in a closure": (
        lambda: times([2]),
        lambda s, x: s.v(x),
        (lambda m: cell(m).cell_contents.__setitem__(0, 4),),
    ),
    "an attribute of a function": (
        lambda: put(k=3)(times(2)),
        lambda s, x: x * s.v.k,
        (lambda m: put(k=5)(m.v),),
    ),
    "a partial function": (
        lambda: functools.partial(scaled, k=4),
        lambda s, x: s.v(x),
        (lambda m: m.v.keywords.update(k=8),),
    ),
    "an attribute that a tensor lacks": (
        ones,
        lambda s, x: x * s.v * (2 if hasattr(s.v, "q") else 3),
        (lambda m: put(q=1)(m.v),),
    ),
    "the gradient of a tensor": (
        ones,
        lambda s, x: x * s.v * (2 if s.v.grad is None else 3),
        (lambda m: put(grad=ones())(m.v),),
    ),
    "tensors in a list": (
        lambda: [ones(), ones()],
        lambda s, x: x * s.v[0] * s.v[1],
        (
            lambda m: m.v.__setitem__(1, m.v[0]),
            lambda m: m.v.pop(),
            lambda m: m.v.__setitem__(1, ones(1)),
        ),
    ),
    "layers in a list": (
        lambda: [nn.Linear(2, 2)],
        lambda s, x: s.v[0](x),
        (
            lambda m: m.v.__setitem__(0, nn.Linear(2, 3)),
            lambda m: put(forward=lambda x: x)(m.v[0]),
            lambda m: m.v[0].register_parameter("bias", None),
        ),
    ),
    "a tensor in a list that becomes another one of the model": (
        lambda: [[ones()]],
        lambda s, x: x * s.v[0][0] * s.own * s.table["a"],
        (lambda m: m.v[0].__setitem__(0, m.own), lambda m: m.v.__setitem__(0, [m.table["a"]])),
    ),
    "a tensor in an object that becomes another one of the model": (
        lambda: Plain(t=ones()),
        lambda s, x: x * s.v.t * s.own * s.table["a"],
        (lambda m: put(t=m.own)(m.v), lambda m: put(t=m.table["a"])(m.v)),
    ),
}


@pytest.mark.parametrize("name", GUARDED)
def test_a_value_that_is_guarded(name: str) -> None:
    assert seen_by(GUARDED[name]) == {(True, False)}


class Giving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.items = ones(), [ones()]

    def forward(self, x: Any, y: Any) -> Any:
        x = x * y[-1] if isinstance(y, tuple) and len(y) == 2 else x
        while not isinstance(y, torch.Tensor):
            y = [*y.values()][0] if isinstance(y, dict) else y[0]  # noqa: RUF015
        return x * y * self.own


GIVEN: dict[str, tuple[Callable[[Any], Any], bool]] = {
    # how, and whether the tensors of the model are watched then
    "as it is": (lambda t: t, True),
    "in a tuple": (lambda t: (t,), True),
    "beside a number": (lambda t: (t, 2), True),
    "in a list": (lambda t: [t], False),
    "in a dict": (lambda t: {"a": t}, False),
    "in a nest": (lambda t: ((t,),), False),
    "in a nest of others": (lambda t: {"a": [[t]]}, False),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given(name: str) -> None:
    """Tensors that were different ones must be so again, wherever the call holds them."""
    kind, watched = GIVEN[name]
    model = Giving().eval()
    x, y = ones(), ones()
    guards = Guards.of(model, x, kind(y))
    assert guards.say(ones(), kind(ones())) == (True, True, True)
    for args in ((x, kind(x)), (model.own, kind(y)), (x, kind(model.own)), (x, kind(ones(1)))):
        assert guards.say(*args) == (False, True, False)
    model.own = model.items[0]
    assert guards.say(x, kind(y)) == (True, False, True)
    model.own = x
    assert guards.say(x, kind(y)) == (False, False, watched)
    model.own = ones(1)
    assert guards.say(x, kind(y)) == (False, False, watched)


SHARED = ones()


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = ones()

    def forward(self, x: Any) -> Any:
        return x * SHARED * self.own


def test_a_tensor_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sharing().eval()
    guards = Guards.of(model, ones())
    assert guards.say(ones()) == (True, True, True)
    monkeypatch.setitem(globals(), "SHARED", model.own)
    assert guards.say(ones()) == (False, True, False)


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Any, other: Any) -> Any:
        return self.layer(x) + other.layer(x)


def test_another_model_is_given() -> None:
    model, other, x = Calling().eval(), Calling().eval(), ones()
    assert Guards.of(model, x, model).say(x, other)[2] is False
    assert (
        Guards.of(model, x, other).say(x, model)[2] is Guards.of(model, x, other).say(x, model)[0]
    )
