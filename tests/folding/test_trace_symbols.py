"""What a symbol notes by itself, where the source does not show it."""

from __future__ import annotations

import collections
import contextlib
import itertools
import numbers
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from traced_forms import Forms, P, T, Way, refused

from bnfx.folding.capturing.traced.holding import leads_to_symbol

STATE: dict[str, Any] = {}
notes, keeps, writes = Forms(), Forms(), Forms()


def first(held: Any) -> int:
    """By an iterator, of which the source says nothing."""
    return 2 if isinstance(next(iter(held)), T) else 3


def state() -> int:
    return 2 if STATE["x"] is None else 3


ASKS = "it asks for its class"
notes["a generator"] = lambda m, x: m.c(x) * first(v for v in [x])
notes["a chain"] = lambda m, x: m.c(x) * first(itertools.chain([x]))
notes["a queue"] = lambda m, x: m.c(x) * first(collections.deque([x]))
notes["a parameter by its name"] = lambda m, x: m.c(x) * isinstance(getattr(m, "w"), P)  # noqa: B009
notes["torch's maps ask for users"] = lambda m, x: m.c(
    pytree.tree_map_only(T, lambda v: v * 2, [x])[0]
)


@pytest.mark.parametrize("way", notes.values(), ids=notes.keys())
def test_that_its_class_is_asked_for(way: Way) -> None:
    assert "may decide by an argument" in refused(way)


def by_number(m: Any, x: Any) -> Any:
    return m.c(x) * (2 if isinstance(m.deep.get("x", x), numbers.Number) else 3)


def test_who_asks_is_named() -> None:
    assert "by_number may decide by an argument" in refused(by_number)


def test_what_holds_too_much_may_hold_a_symbol() -> None:
    assert not leads_to_symbol([[] for _ in range(9_999)])
    assert leads_to_symbol([[] for _ in range(10_000)])


@keeps
def in_a_global(m: Any, x: Any) -> Any:
    STATE["x"] = x
    return m.c(x) * state()


@keeps
def deep_in_an_attribute(m: Any, x: Any) -> Any:
    m.deep["a"]["x"] = x
    return m.c(x)


@keeps
def as_an_attribute_of_an_object(m: Any, x: Any) -> Any:
    m.space.x = x
    return m.c(x) * (2 if m.space.x is None else 3)


@keeps
def an_attribute_of_it(m: Any, x: Any) -> Any:
    m.deep["a"]["shape"] = x.shape
    return m.c(x)


@pytest.mark.parametrize("way", keeps.values(), ids=keeps.keys())
def test_that_somebody_keeps_it(way: Way) -> None:
    STATE.clear()
    assert "keeps what it computes where later calls could read it" in refused(way)


@writes
def data(m: Any, x: Any) -> Any:
    y = x * 2
    y.data = m.b + y.data
    return m.c(y)


@writes
def gradients(m: Any, x: Any) -> Any:
    (y := x * 1).requires_grad = False
    return m.c(y)


@pytest.mark.parametrize("way", writes.values(), ids=writes.keys())
def test_that_an_attribute_of_it_is_written(way: Way) -> None:
    with torch.no_grad():
        assert "of an argument is written" in refused(way)


class Swallows:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> int:
        return 1


ERRORS = {
    "length": lambda x: len(x),
    "int": lambda x: int(x.dim()),
    "float": lambda x: int(float(x.dim())),
    "complex": lambda x: int(abs(complex(x.dim()))),
    "truth": lambda x: 2 if x.dim() else 3,
    "elements": lambda x: sum(1 for _ in x),
    "hash": lambda x: len({x}) + 1,
    "range": lambda x: len(range(x.dim())),
}


@pytest.mark.parametrize("caught", [contextlib.suppress(Exception), Swallows()])
@pytest.mark.parametrize("asks", ERRORS.values(), ids=ERRORS.keys())
def test_that_code_catches_its_errors(asks: Any, caught: Any) -> None:
    def way(m: Any, x: Any) -> Any:
        count = 1
        with caught:
            count = asks(x)
        return m.c(x) * count

    assert refused(way)
