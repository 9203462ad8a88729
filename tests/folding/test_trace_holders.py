"""Traces of models whose objects hold what code may change, read, or look with."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced_forms import Forms, Net, T, check_refused

import bnfx

LOG: list[int] = []
holds = Forms()


class Counter:
    n = 0

    def step(self, x: Any) -> Any:
        self.n += 1
        return x if self.n < 6 else x * 2


class Level(enum.IntEnum):
    LOW = 1


class Table(dict[str, Any]):
    """Of functions."""


class Row(list[Any]):
    """Of functions."""


class Op(enum.Enum):
    TEXT = 1

    def __init__(self, number: int) -> None:
        self.look = repr


class Meta(type):
    check = type


class Checked(metaclass=Meta):
    """Its class has what looks."""


class Batch:
    def __init__(self, x: Any) -> None:
        self.x = x

    @property
    def mask(self) -> Any:
        return self.x.mask


def counted(held: dict[str, int]) -> int:
    held["n"] += 1
    return 2 if held["n"] > 4 else 3


@torch.no_grad()
def asked(log: list[int] = []) -> bool:  # noqa: B006
    log.append(1)
    return len(log) > 4


def applied(function: Any, x: Any) -> Any:
    return function(x)


class Holding(Net):
    def __init__(self, way: Any) -> None:
        super().__init__(way)
        self.step, self.counting = Counter().step, functools.partial(counted, {"n": 0})
        self.functions, self.row = Table(text=repr), Row([repr])
        self.t, self.numbers = torch.zeros(1), [None]  # type: ignore[list-item]
        n = torch.zeros(1)
        self.register_buffer("n", n)
        self.warm = lambda: n.item() < 3

    @property
    def extra(self) -> Any:
        return self.w.extra


holds["a bound method"] = lambda m, x: m.step(m.c(x))
holds["a partial"] = lambda m, x: m.c(x) * m.counting()
holds["a decorated function's default"] = lambda m, x: m.c(x) * (2 if asked() else 3)
holds["a global in a comprehension"] = lambda m, x: (
    m.c(x)
    * (
        2 if sum([(LOG.append(1) or len(LOG)) for _ in "a"]) > 4 else 3  # type: ignore[func-returns-value]
    )
)
holds["an alias in a closure"] = lambda m, x: (
    m.c(x) * (2 if m.n.add_(1) is not m.w and m.warm() else 3)
)
holds["data of a tensor"] = lambda m, x: m.c(x) * [m.t.data.add_(1), m.t][1]
holds["numbers of a tensor"] = lambda m, x: m.c(x) * float(m.t.numpy().sum() + 1)
holds["a table of its own class"] = lambda m, x: m.c(x) * len(m.functions["text"](x.dim()))
holds["a list of its own class"] = lambda m, x: m.c(x) * len(m.row[0](x.dim()))
holds["a member's attribute"] = lambda m, x: m.c(x) * len(Op(1).look(x.dim()))
holds["a metaclass"] = lambda m, x: m.c(x) * (2 if Checked.check(x) is T else 3)
holds["a function that ran before"] = lambda m, x: (
    m.c(x) * applied(F.relu, x) * len(applied(m.functions["text"], x.dim()))
)
holds["a property of an object"] = lambda m, x: m.c(x) * (2 if hasattr(Batch(x), "mask") else 3)
holds["a property of its own"] = lambda m, x: m.c(x) * (2 if hasattr(m, "extra") else 3)
holds["a property or nothing"] = lambda m, x: (
    m.c(x) * (2 if getattr(m, "extra", None) is None else 3)
)
holds["the seed"] = lambda m, x: m.c(x) * (torch.initial_seed() % 7 + 1)
holds["a mode of torch's"] = lambda m, x: (
    m.c(x) * (2 if torch.are_deterministic_algorithms_enabled() else 3)
)
holds["inference"] = lambda m, x: m.c(x) * (2 if torch.zeros(1).is_inference() else 3)


@holds
def a_member_that_counts(m: Any, x: Any) -> Any:
    Level.LOW.n = getattr(Level.LOW, "n", 0) + 1  # type: ignore[attr-defined]
    return m.c(x) * (2 if Level.LOW.n > 4 else 3)  # type: ignore[attr-defined]


@holds
def a_method_by_its_name(m: Any, x: Any) -> Any:
    getattr(m.numbers, "append")(x)  # noqa: B009
    count = len([1 for each in m.numbers if each is None])
    getattr(m.numbers, "pop")()  # noqa: B009
    return m.c(x) * count


@holds
def a_list_that_a_method_gives(m: Any, x: Any) -> Any:
    held = m.given()
    held += [x]
    count = 2 if m.numbers[1] is None else 3
    held.pop()
    return m.c(x) * count


Holding.given = lambda self: self.numbers  # type: ignore[attr-defined]


@holds
def the_text_of_an_error(m: Any, x: Any) -> Any:
    said: list[str] = []
    for _ in Ends(said, x.dim()):
        pass
    return m.c(x) * len(said[0])


class Ends:
    def __init__(self, said: list[str], size: Any) -> None:
        self.said, self.size = said, size

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise StopIteration(self.said.append(f"{self.size}"))  # type: ignore[func-returns-value]


@pytest.mark.parametrize("name", holds)
def test_what_objects_hold_is_seen(name: str) -> None:
    LOG.clear()
    check_refused(Holding(holds[name]).eval())


def doubled(forward: Any) -> Any:
    @functools.wraps(forward)
    def other(self: Any, x: Any, *rest: Any) -> Any:
        return forward(self, x, *rest) if rest else forward(self, x * 2)

    return other


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 1)

    @doubled
    def forward(self, x: Any, skip: Any = None) -> Any:
        return self.c(x)


@dataclasses.dataclass
class Twice:
    y: Any

    def __init__(self, y: Any) -> None:
        self.y = y * 2


class OwnCall(Net):
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return super()._call_impl(*args, **kwargs) * 2


@pytest.mark.parametrize(
    "model",
    [Decorated(), Net(lambda m, x: Twice(m.c(x))), OwnCall(lambda m, x: m.c(x))],
    ids=["a decorated forward", "an object that is made once more", "a call of its own"],
)
def test_what_a_graph_does_otherwise_is_not_traced(model: nn.Module) -> None:
    with pytest.raises(bnfx.CaptureError):
        bnfx.fold(model.eval(), keep="graph")


def test_a_tensor_that_forward_makes_is_told() -> None:
    """It would be in the dtype of the trace, also after ``half()``."""
    with pytest.raises(bnfx.CaptureError, match="makes a tensor"):
        bnfx.fold(Net(lambda m, x: m.c(x) + torch.ones(3, 1, 1)).eval(), keep="graph")
