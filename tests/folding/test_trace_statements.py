"""Statements that decide by a symbol, or hide from a name that it holds one."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from traced_forms import Forms, P, T, Way, refused

decides = Forms()


def looks(v: Any) -> int:
    return 2 if type(v) is T else 3


def puts(held: Any, x: Any) -> None:
    held.append(x)


class Entered:
    def __init__(self, held: Any) -> None: ...
    def __enter__(self) -> int:
        return 1

    def __exit__(self, *error: object) -> None: ...


@decides
def a_while(m: Any, x: Any) -> Any:
    count = 0
    while x is not None and count < 2:
        count += 1
    return m.c(x) * count


@decides
def a_match(m: Any, x: Any) -> Any:
    match [x, 1]:
        case [None, 1]:
            return m.c(x) * 2
    return m.c(x)


@decides
def a_try(m: Any, x: Any) -> Any:
    try:
        count = sum(range(x.dim()))
    except TypeError:
        count = 3
    return m.c(x) * count


@decides
def a_try_around_a_function(m: Any, x: Any) -> Any:
    def counts() -> int:
        return sum(range(x.dim()))

    try:
        count = counts()
    except TypeError:
        count = 3
    return m.c(x) * count


@decides
def a_layer_by_another_name(m: Any, x: Any) -> Any:
    layer = m.c
    return layer(x) * (2 if type(layer.weight) is P else 3)


@decides
def a_layer_in_a_loop(m: Any, x: Any) -> Any:
    for layer in m.seq:
        if type(layer.weight) is P:
            return m.c(x) * 2
    return m.c(x)


@decides
def a_tuple(m: Any, x: Any) -> Any:
    first, *others = [x, x]
    return m.c(first) * (2 if others[0] is None else 3)


@decides
def an_annotated_name(m: Any, x: Any) -> Any:
    y: Any = x.grad_fn
    return m.c(x) * (2 if y is None else 3)


@decides
def a_walrus(m: Any, x: Any) -> Any:
    return m.c(y := x * 2) * (2 if y.grad_fn is None else 3)


@decides
def a_list_that_is_added_to(m: Any, x: Any) -> Any:
    held: list[Any] = [None]
    held += [x]
    held = held[1:]
    count = 2 if held[0] is None else 3
    held = []
    return m.c(x) * count


@decides
def a_list_that_is_appended_to(m: Any, x: Any) -> Any:
    held: list[Any] = []
    held.append(x)
    count = looks(held[0])
    held = []
    return m.c(x) * (count if held else 2 if held is None else 3)


@decides
def a_list_by_another_name(m: Any, x: Any) -> Any:
    held: list[Any] = []
    other = held
    other.append(x)
    return m.c(x) * (2 if held[0] is None else 3)


@decides
def a_list_that_a_function_fills(m: Any, x: Any) -> Any:
    held: list[Any] = []
    puts(held, x)
    return m.c(x) * (2 if held[0] is None else 3)


@decides
def an_element(m: Any, x: Any) -> Any:
    held = [None]
    held[0] = x
    return m.c(x) * (2 if held[0] is None else 3)


@decides
def a_loop(m: Any, x: Any) -> Any:
    for at, (_, value) in enumerate([(1, x)]):
        if value is None:
            return m.c(x) * (at + 2)
    return m.c(x)


@decides
def a_context(m: Any, x: Any) -> Any:
    with Entered(x) as y:
        return m.c(x) * (2 if y is None else 3)


@decides
def a_decorator(m: Any, x: Any) -> Any:
    def kept(value: Any) -> Any:
        return lambda function: function if value else (lambda: 3)

    @kept(x is None)
    def count() -> int:
        return 2

    return m.c(x) * count()


@decides
def a_name_from_outside(m: Any, x: Any) -> Any:
    y = None

    def sets() -> None:
        nonlocal y
        y = x

    sets()
    return m.c(x) * (2 if y is None else 3)


@decides
def what_is_called_enumerate(m: Any, x: Any) -> Any:
    enumerate = lambda values: [(values[0], 1)]  # noqa: E731
    for one, _ in enumerate([x]):
        if one is None:
            return m.c(x) * 2
    return m.c(x)


@decides
def written_to(m: Any, x: Any) -> Any:
    space = types.SimpleNamespace()
    space.x = x
    return m.c(x) * (2 if space.x is None else 3)


@decides
def what_a_function_in_c_says(m: Any, x: Any) -> Any:
    if sys.getsizeof(x) < sys.getsizeof(m):
        return m.c(x)
    return m.c(x) * 2


@pytest.mark.parametrize("name", decides)
def test_code_that_decides_by_a_symbol_is_not_traced(name: str) -> None:
    assert "may decide by an argument" in refused(decides[name])


unlisted = Forms()


@unlisted
def a_try_that_fails_without_a_symbol(m: Any, x: Any) -> Any:
    try:
        count = m.nothing
    except AttributeError:
        count = 3
    return m.c(x) * count


@unlisted
def a_match_of_no_symbol(m: Any, x: Any) -> Any:
    match m.mode:
        case "a":
            return m.c(x) * 2
    return m.c(x)


@unlisted
def a_hook(m: Any, x: Any) -> Any:
    seen: list[int] = []
    hook = m.c.register_forward_hook(lambda *_: seen.append(1))
    y = m.c(x)
    hook.remove()
    return y * (2 + len(seen))


@unlisted
def an_import(m: Any, x: Any) -> Any:
    from builtins import type as kind

    return m.c(x) * (2 if kind(x) is T else 3)


@unlisted
def a_generator(m: Any, x: Any) -> Any:
    def each() -> Any:
        yield m.c(x)

    return sum(each())


@pytest.mark.parametrize("name", unlisted)
def test_code_that_is_not_listed_is_not_traced(name: str) -> None:
    assert refused(unlisted[name])


def in_a_class(m: Any, x: Any) -> Any:
    class Own:
        count = 2 if x is None else 3

    return m.c(x) * Own.count


SPACE: dict[str, Any] = {}
exec("def way(m, x):\n    return m.c(x)", SPACE)


@pytest.mark.parametrize("way", [in_a_class, SPACE["way"]])
def test_code_without_a_source_is_not_traced(way: Way) -> None:
    assert "the source of" in refused(way)
