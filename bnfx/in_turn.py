"""Reads a method: where it takes a child of a module in order to run it, and in which order."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

_RUNS = frozenset({"forward", "__call__", "_conv_forward"})
_LOADS = ("LOAD_ATTR", "LOAD_METHOD")


@dataclass(frozen=True)
class Reference:
    """Where code takes an attribute in order to run it, or to hand it on.

    Args:
        name: of the attribute; ``""`` where ``getattr`` computes it.
        offset: of the instruction.
        by_self: whether it is one of ``self``.
        is_call: whether it is called on the spot.
        words: the strings in the code, of which ``getattr`` may make a name.
    """

    name: str
    offset: int
    by_self: bool
    is_call: bool = False
    words: frozenset[str] = frozenset()

    def may_be(self, names: Sequence[str]) -> bool:
        """Whether it may lead to one of these attributes."""
        if self.name:
            return self.name in names
        return any(name.startswith(word) for word in self.words for name in names)


_cache: dict[CodeType, list[Reference]] = {}


def references(code: CodeType) -> list[Reference]:
    """All in a function, but for looks: at a child's attribute, or whether it is there."""
    if code not in _cache:
        _cache[code] = list(_find_references(code))
    return _cache[code]


def _find_references(code: CodeType) -> Iterator[Reference]:
    skipped = ("CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL", "PRECALL")
    steps = [step for step in dis.get_instructions(code) if step.opname not in skipped]
    words = frozenset(_words(code))
    for position, step in enumerate(steps):
        before, after = steps[max(position - 2, 0) : position], steps[position + 1 : position + 3]
        of_self = step.argval == "getattr" and len(after) == 2 and _is_self(after[0])
        if of_self and after[1].opname not in _LOADS:
            rest = [step.opname for step in steps[position + 2 : position + 5]]
            while rest and rest[0] == "LOAD_CONST":  # the name, and a default
                rest.pop(0)
            is_plain = bool(rest) and rest[0].startswith("CALL") and after[1].opname == "LOAD_CONST"
            name = after[1].argval if is_plain else ""
            yield Reference(str(name), step.offset, True, words=words)
        if step.opname not in _LOADS or not before or not after:
            continue
        if after[0].opname in _LOADS and after[0].argval not in _RUNS:
            continue  # conv.weight: a look, not a run
        looks = before[0].argval in ("getattr", "hasattr", "isinstance")
        if looks and after[0].argval not in _RUNS and not after[0].opname.startswith("LOAD_FAST"):
            continue
        tests = after[0].argval is None and after[-1].opname == "IS_OP"
        if tests or after[0].opname.endswith("NONE"):
            continue
        called = step.opname == "LOAD_METHOD" or "NULL" in step.argrepr
        yield Reference(str(step.argval), step.offset, _is_self(before[-1]), called)


def _is_self(step: dis.Instruction) -> bool:
    """Whether the last thing that the instruction puts on the stack is ``self``."""
    value = step.argval
    return bool(value == "self" or (isinstance(value, tuple) and value[-1:] == ("self",)))


def _words(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        for word in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(word, str) and word:
                yield word


def runs_in_turn(function: Any, names: Sequence[str]) -> bool:
    """Whether the source runs these children of ``self`` in turn, wherever it runs one.

    That is ``v = self.a(...)`` followed by ``v = self.b(v)``, or ``self.b(self.a(...))``.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return False
    first, last = names[0], names[-1]
    uses = sum(isinstance(node, ast.Attribute) and node.attr in names for node in ast.walk(tree))
    pairs = 0
    for node in ast.walk(tree):
        if _call_of(node, last) and any(_call_of(argument, first) for argument in node.args):  # type: ignore[attr-defined]
            pairs += 1
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                pairs += sum(
                    _is_pair(one, two, first, last) for one, two in itertools.pairwise(statements)
                )
        pairs += _lists_in_turn(node, tree, first, last)
    return uses == 2 * pairs


def _lists_in_turn(node: ast.AST, tree: ast.AST, first: str, last: str) -> int:
    """``layers = [self.a, self.b, ...]``, of which ``nn.Sequential(*layers)`` is returned."""
    ends = [ast.unparse(end) for end in ast.walk(tree) if isinstance(end, ast.Return)]
    if not isinstance(node, (ast.Assign, ast.Call)) or len(ends) != 1:
        return 0
    if isinstance(node, ast.Assign):
        name, value = ast.unparse(node.targets[0]), node.value
    else:
        name, _, method = ast.unparse(node.func).rpartition(".")
        value = node.args[0] if method == "extend" and len(node.args) == 1 else node
    if not isinstance(value, (ast.List, ast.Tuple)):
        return 0
    if ends[0] != f"return nn.Sequential(*{name})":
        return 0
    parts = [ast.unparse(part) for part in value.elts]
    return sum(pair == (f"self.{first}", f"self.{last}") for pair in itertools.pairwise(parts))


def _is_pair(one: ast.stmt, two: ast.stmt, first: str, last: str) -> bool:
    if not isinstance(one, ast.Assign) or not isinstance(two, ast.Assign):
        return False
    ours, theirs = one.targets[0], two.targets[0]
    if not isinstance(ours, ast.Name) or not isinstance(theirs, ast.Name):
        return False
    if not _call_of(one.value, first) or not _call_of(two.value, last):
        return False
    taken = two.value.args[0] if two.value.args else None  # type: ignore[attr-defined]
    return isinstance(taken, ast.Name) and taken.id == ours.id == theirs.id


def _call_of(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "self"
    )
