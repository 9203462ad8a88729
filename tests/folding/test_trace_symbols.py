"""What a symbol notes by itself, where the source does not show it; and what is no hindrance."""

from __future__ import annotations

import collections
import contextlib
import itertools
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from traced_forms import Forms, P, T, Way, check_taken, refused

STATE: dict[str, Any] = {}
notes, keeps, writes, taken = Forms(), Forms(), Forms(), Forms()


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


taken["a flag"] = lambda m, x: m.c(x) * (2 if m.flag else 3)
taken["no layer"] = lambda m, x: m.c(x) * (2 if m.none is None and m.c is not None else 3)
taken["a bias"] = lambda m, x: m.c(x) * (2 if m.c.bias is not None else 3)
taken["a class of a layer"] = lambda m, x: m.c(x) * (2 if isinstance(m.c, nn.Conv2d) else 3)
taken["a type of a layer"] = lambda m, x: m.c(x) * (2 if type(m.c) is nn.Conv2d else 3)
taken["a name"] = lambda m, x: m.c(x) * (2 if m.mode in ("a", "b") else 3)
taken["a key"] = lambda m, x: {"a": m.c, "b": m.none}[m.mode](x)
taken["text"] = lambda m, x: m.c(x) * len(f"{m.mode}")
taken["a layer in a list"] = lambda m, x: m.seq[0](x) * (2 if m.seq[0].bias is not None else 3)
taken["a filter"] = lambda m, x: sum(layer(x) for layer in [m.c, m.none] if layer is not None)
taken["a mask"] = lambda m, x: torch.where(x > 0, m.c(x), x) * x[0, 0]
taken["a lambda"] = lambda m, x: (lambda v, scale=None: v if scale is None else v * 2)(m.c(x))
taken["a getattr"] = lambda m, x: getattr(m, "c" if hasattr(m, "c") else "d")(x)
taken["a closure"] = lambda m, x: (lambda: m.c(x) * m.w)()
taken["not run"] = lambda m, x: m.c(x) if m.flag else isinstance(m.c, nn.Linear)
taken["torch's"] = lambda m, x: F.interpolate(F.relu(m.c(x)), scale_factor=2.0)
taken["told"] = lambda m, x: (m.c(x), torch._assert(x.dim() == 4, f"not {x.dim()}"))[0]


@taken
def a_list(m: Any, x: Any) -> Any:
    outputs: list[Any] = []
    for at, each in enumerate([x, x * 2]):
        outputs.append(m.c(each) if at is not None and at > 0 else each)
    return torch.cat(outputs)


def joined(values: Any) -> Any:
    if values is None or not isinstance(values, (list, tuple)):
        return values
    return torch.cat(values)


@taken
def a_list_that_is_handed_on(m: Any, x: Any) -> Any:
    return joined([m.c(x), x])


@taken
def a_dict(m: Any, x: Any) -> Any:
    held = {"a": x}
    held["b"] = m.c(held["a"])
    return held["b"]


@taken
def a_layer_by_another_name(m: Any, x: Any) -> Any:
    layer = m.c
    return layer(x) if layer.bias is not None else x


@taken
def a_write(m: Any, x: Any) -> Any:
    y = m.c(x)
    y += 1
    y *= m.w
    y -= x.mean()
    return y


@taken
def a_try(m: Any, x: Any) -> Any:
    try:
        count = m.nothing
    except AttributeError:
        count = 3
    return m.c(x) * count


@taken
def a_context(m: Any, x: Any) -> Any:
    with torch.no_grad(), contextlib.nullcontext():
        return m.c(x)


@taken
def a_recursion(m: Any, x: Any) -> Any:
    def again(count: int) -> Any:
        return m.c(x) if count == 0 else again(count - 1) * 2

    return again(2)


@taken
def a_match(m: Any, x: Any) -> Any:
    match m.mode:
        case "a":
            return m.c(x) * 2
    return m.c(x)


@taken
def an_object(m: Any, x: Any) -> Any:
    def scaled(options: Any) -> Any:
        return m.c(x) * (2 if options.scale is None else 3)

    return scaled(types.SimpleNamespace(scale=1))


@pytest.mark.parametrize("way", taken.values(), ids=taken.keys())
def test_what_decides_by_no_symbol_is_traced(way: Way) -> None:
    check_taken(way)
