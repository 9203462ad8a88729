"""Instructions as each Python writes them, and not this one alone, do what ``dis`` says."""

from __future__ import annotations

import dis
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from bnfx.direct.jumps import goes_on_at, is_a_jump
from bnfx.direct.stack_moves import move
from bnfx.direct.straight_code import _Reader
from bnfx.direct.symbols import Constant, Given
from bnfx.direct.watched import NotDirectError, Watched


def instruction(name: str, arg: int | None = None, value: Any = None, at: int = 10) -> Any:
    shown = "[]" if name == "BINARY_OP" and arg == 26 else str(value)
    return SimpleNamespace(opname=name, arg=arg, argval=value, argrepr=shown, offset=at)


MOVES: dict[tuple[str, int | None], str] = {
    ("POP_TOP", None): "abcd",
    ("COPY", 1): "abcdee",
    ("COPY", 3): "abcdec",
    ("SWAP", 2): "abced",
    ("SWAP", 4): "aecdb",
    ("DUP_TOP", None): "abcdee",
    ("ROT_TWO", None): "abced",
    ("ROT_THREE", None): "abecd",
    ("ROT_FOUR", None): "aebcd",
    ("ROT_N", 5): "eabcd",
    ("ROT_N", 2): "abced",
}


@pytest.mark.parametrize(("name", "arg"), MOVES)
def test_moves(name: str, arg: int | None) -> None:
    stack = list("abcde")
    assert move(instruction(name, arg), stack)
    assert "".join(stack) == MOVES[name, arg]


def test_no_moves() -> None:
    stack = list("ab")
    assert not move(instruction("ROT_FIVE"), stack)
    assert stack == ["a", "b"]


THINGS = (True, False, None, 0, 3, "", "text")
JUMPS: dict[str, list[bool]] = {
    "POP_JUMP_IF_TRUE": [True, False, False, False, True, False, True],
    "POP_JUMP_IF_FALSE": [False, True, True, True, False, True, False],
    "POP_JUMP_IF_NONE": [False, False, True, False, False, False, False],
    "POP_JUMP_IF_NOT_NONE": [True, True, False, True, True, True, True],
}


@pytest.mark.parametrize("name", JUMPS)
def test_jumps(name: str) -> None:
    for python311 in (False, True):
        named = name.replace("JUMP", "JUMP_FORWARD") if python311 else name
        jump = instruction(named, 1, 24)
        assert is_a_jump(jump)
        for thing, taken in zip(THINGS, JUMPS[name], strict=True):
            stack = ["below", Constant(thing)]
            assert goes_on_at(jump, stack) == (24 if taken else 0)
            assert stack == ["below"]


def test_a_jump_that_asks_nothing() -> None:
    stack = [Constant(1)]
    assert goes_on_at(instruction("JUMP_FORWARD", 1, 24), stack) == 24
    assert stack == [Constant(1)]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("JUMP_BACKWARD", 2),
        ("JUMP_ABSOLUTE", 24),
        ("POP_JUMP_IF_TRUE", 4),
        ("POP_JUMP_IF_TRUE", 10),
        ("POP_JUMP_BACKWARD_IF_TRUE", 24),
        ("JUMP_IF_TRUE_OR_POP", 24),
    ],
)
def test_jumps_that_are_refused(name: str, to: int) -> None:
    with pytest.raises(NotDirectError, match=name):
        goes_on_at(instruction(name, 1, to), [Constant(True)])


NAMES: dict[str, Any] = {"call": sys.intern, "table": {"a": 1}}
A, B = Given("a"), Given("b")
ITEM = Given("a", ((True, 3),))


def small(value: Any) -> Any:
    return instruction("LOAD_SMALL_INT", value, value)


LOCAL = {
    "LOAD_FAST": "all",
    "LOAD_FAST_BORROW": "3.14",
    "LOAD_FAST_CHECK": "3.12",
    "LOAD_DEREF": "all",
}
STEPS: dict[str, tuple[list[Any], list[Any]]] = {
    **{name: ([instruction(name, 0, "a")], [A]) for name in LOCAL},
    "LOAD_SMALL_INT": ([small(3)], [Constant(3)]),
    "LOAD_CONST": ([instruction("LOAD_CONST", 1, "text")], [Constant("text")]),
    "BINARY_SUBSCR": (
        [instruction("LOAD_FAST", 0, "a"), small(3), instruction("BINARY_SUBSCR")],
        [ITEM],
    ),
    "BINARY_OP": (
        [instruction("LOAD_FAST", 0, "a"), small(3), instruction("BINARY_OP", 26)],
        [ITEM],
    ),
    "DELETE_FAST": (
        [
            instruction("LOAD_FAST", 0, "a"),
            instruction("STORE_FAST", 0, "b"),
            instruction("LOAD_FAST", 0, "b"),
        ],
        [A],
    ),
    **{
        name: ([small(3), instruction(name)], [Constant(3)])
        for name in (
            *("RESUME", "CACHE", "NOP", "PRECALL", "COPY_FREE_VARS"),
            *("EXTENDED_ARG", "TO_BOOL", "NOT_TAKEN"),
        )
    },
}


def reader() -> _Reader:
    code = (lambda a: a).__code__
    return _Reader(code, NAMES, {}, nn.Module(), Watched())


@pytest.mark.parametrize("name", STEPS)
def test_steps(name: str) -> None:
    instructions, expected = STEPS[name]
    found = reader()
    for each in instructions:
        found.step(each)
    assert found.stack == expected


@pytest.mark.parametrize(
    ("name", "arg"), [("BINARY_OP", 0), ("LOAD_ATTR_OF_NONE", 0), ("CALL_KW", 1), ("END_FOR", None)]
)
def test_steps_that_are_refused(name: str, arg: int | None) -> None:
    found = reader()
    found.stack += [A, B]
    with pytest.raises(NotDirectError, match=name):
        found.step(instruction(name, arg, "+"))


@pytest.mark.parametrize(
    ("version", "name", "arg", "count"),
    [
        ((3, 10), "LOAD_GLOBAL", 1, 1),
        ((3, 11), "LOAD_GLOBAL", 0, 1),
        ((3, 11), "LOAD_GLOBAL", 1, 2),
        ((3, 13), "LOAD_GLOBAL", 3, 2),
        ((3, 13), "LOAD_GLOBAL", 2, 1),
        ((3, 11), "LOAD_ATTR", 1, 1),
        ((3, 12), "LOAD_ATTR", 2, 1),
        ((3, 12), "LOAD_ATTR", 1, 0),
        ((3, 13), "LOAD_ATTR", 3, 0),
    ],
)
def test_the_lowest_bit(
    version: tuple[int, int], name: str, arg: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 3.11 on it says that a NULL goes below a global, from 3.12 on that it is a method's."""
    found, each = reader(), instruction(name, arg, "call")
    if name == "LOAD_ATTR":
        found.stack.append(A)
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    if count:
        found.step(each)
        monkeypatch.undo()
        assert len(found.stack) == count
        assert isinstance(found.stack[-1], Given)
        return
    with pytest.raises(NotDirectError, match="LOAD_ATTR"):
        found.step(each)
    monkeypatch.undo()


@pytest.mark.parametrize("order", ["NULL, function", "function, NULL", "function"])
def test_calls(order: str) -> None:
    """3.11 and 3.12 put NULL below the function, later ones above it; 3.10 has none."""
    called = list[Any]()
    names = {"__compiled_fn_3": called.append}
    code = (lambda a: a).__code__
    found = _Reader(code, names, {}, nn.Module(), Watched())
    found.step(instruction("LOAD_FAST", 0, "b"))  # what stands below is left alone
    steps = {
        "NULL": instruction("PUSH_NULL"),
        "function": instruction("LOAD_GLOBAL", 0, "__compiled_fn_3"),
    }
    for part in order.split(", "):
        found.step(steps[part])
    found.step(instruction("LOAD_FAST", 0, "a"))
    found.step(small(3))
    found.step(instruction("CALL_FUNCTION" if order == "function" else "CALL", 2))
    assert found.call == (names["__compiled_fn_3"], [A, Constant(3)])
    assert found.stack[0] == B
    assert len(found.stack) == 2


def test_constants_that_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.12 and 3.13 have an instruction for that."""
    names = {"__compiled_fn_3": print}
    code = (lambda a: a).__code__
    instructions = [
        instruction("LOAD_GLOBAL", 0, "__compiled_fn_3"),
        instruction("CALL_FUNCTION", 0),
        instruction("POP_TOP"),
        instruction("RETURN_CONST", 1, "text"),
    ]
    monkeypatch.setattr(dis, "get_instructions", lambda _: instructions)
    read = _Reader(code, names, {}, nn.Module(), Watched()).read()
    assert (read.call, read.arguments, read.returned) == (print, [], Constant("text"))
    instructions.pop()
    with pytest.raises(NotDirectError, match="does not return"):
        _Reader(code, names, {}, nn.Module(), Watched()).read()


def test_what_stands_in_place_of_null() -> None:
    """A method's owner, which is an argument."""
    found = reader()
    found.stack += [A, Given("call", (), NAMES), Constant(3)]
    with pytest.raises(NotDirectError, match="calls what is not known"):
        found.step(instruction("CALL", 1))
