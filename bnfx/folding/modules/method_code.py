"""Reads a method: where it takes a child of a module in order to run it, and in which order."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

_RUNS = frozenset({"forward", "__call__", "_conv_forward"})
_LOADS = ("LOAD_ATTR", "LOAD_METHOD")
# What gives children of any name.
_ALL = frozenset({"children", "named_children", "get_submodule", "_modules", "__getattr__"})
_ALL |= {"__dict__", "vars", "attrgetter"}
_ANY = frozenset({""})
_PAIR = re.compile("(?:LOAD|STORE)_FAST")
# What a fold changes, and what may be asked of it all the same.
_NUMBERS = frozenset({"weight", "bias", "running_mean", "running_var"})
_HARMLESS = frozenset({"dtype", "device", "shape", "size", "dim", "ndim", "numel", "requires_grad"})
_HARMLESS |= {"requires_grad_", "grad", "is_cuda", "data"}


@dataclass(frozen=True)
class Reference:
    """Where code takes an attribute in order to run it, or to hand it on.

    Args:
        name: of the attribute; ``""`` where ``getattr`` computes it.
        offset: of the instruction.
        by_self: whether it is one of ``self``.
        is_call: whether it is called on the spot.
        words: how a name that ``getattr`` computes may begin.
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
    steps = [
        s for step in dis.get_instructions(code) if step.opname not in skipped for s in _plain(step)
    ]
    is_setup = any("init" in name or "reset" in name for name in (code.co_name, *code.co_names))
    for position, step in enumerate(steps):
        before, after = steps[max(position - 2, 0) : position], steps[position + 1 : position + 3]
        if step.argval == "getattr" and len(after) == 2:
            yield from _by_getattr(code, steps[position:])
        if step.argval in _ALL and step.opname in (*_LOADS, "LOAD_GLOBAL"):
            yield Reference("", step.offset, bool(before) and _is_self(before[-1]), words=_ANY)
        if step.opname not in _LOADS or not before or not after:
            continue
        if after[0].opname in _LOADS and after[0].argval not in _RUNS:
            looks = after[0].argval not in _NUMBERS or is_setup or after[-1].argval in _HARMLESS
            if looks or after[-1].opname in ("STORE_ATTR", "POP_TOP"):
                continue  # conv.weight.dtype: a look, not a run
        looks = before[0].argval in ("getattr", "hasattr", "isinstance")
        if looks and after[0].argval not in _RUNS and not after[0].opname.startswith("LOAD_FAST"):
            continue
        tests = after[0].argval is None and after[-1].opname == "IS_OP"
        if tests or after[0].opname.endswith("NONE"):
            continue
        called = step.opname == "LOAD_METHOD" or "NULL" in step.argrepr
        yield Reference(str(step.argval), step.offset, _is_self(before[-1]), called)


def _by_getattr(code: CodeType, steps: Sequence[dis.Instruction]) -> Iterator[Reference]:
    """What ``getattr``, the first step, takes of ``self``, or of what an attribute leads to."""
    function, owner, first = steps[:3]
    if _is_load(first):
        name = next(itertools.dropwhile(_is_load, steps[2:]))
        yield Reference("", function.offset, False, words=_begins(code, name))
    elif _is_self(owner):
        # The name, perhaps a default, and the call: it is not computed.
        behind = itertools.dropwhile(_is_constant, steps[2:5])
        plain = _is_constant(first) and any(s.opname.startswith("CALL") for s in [*behind][:1])
        found = str(first.argval) if plain else ""
        yield Reference(found, function.offset, True, words=_begins(code, first))


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of functions and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def takes_once(code: CodeType) -> bool:
    """Whether a function goes through one thing at most: what stands in a list, it runs whole."""
    steps = [step for each in codes_in(code) for step in dis.get_instructions(each)]
    words = {str(step.argval) for step in steps}
    if words & {*_ALL, "getattr"}:
        return False
    taking = {"FOR_ITER", "BINARY_SUBSCR"}
    if not words & {"enumerate", "zip", "items"}:  # these give pairs by themselves
        taking.add("UNPACK_SEQUENCE")
    subscripts = sum(step.opname == "BINARY_OP" and step.argrepr == "[]" for step in steps)
    return sum(step.opname in taking for step in steps) + subscripts <= 1


def _is_load(step: dis.Instruction) -> bool:
    return step.opname in _LOADS


def _is_constant(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_CONST"


def _plain(step: dis.Instruction) -> list[dis.Instruction]:
    """From 3.13 on, one instruction may load or store two variables: as two."""
    if not isinstance(step.argval, tuple) or "_FAST_" not in step.opname:
        return [step]
    names = [
        "STORE_FAST" if "STORE" in part else "LOAD_FAST" for part in _PAIR.findall(step.opname)
    ]
    return [
        step._replace(opname=name, argval=value)
        for name, value in zip(names, step.argval, strict=True)
    ]


def _is_self(step: dis.Instruction) -> bool:
    return bool(step.argval == "self")


def _begins(code: CodeType, step: dis.Instruction) -> frozenset[str]:
    """How a name may begin, which ``step`` begins to compute: ``"layer"`` for ``f"layer{i}"``.

    One of the function's own variables may be any string that stands in the function; of an
    argument, or of something from outside, nothing is known.
    """
    if _is_constant(step):
        strings = [step.argval]
    elif step.argval in code.co_varnames[code.co_argcount + code.co_kwonlyargcount :]:
        strings = [
            c for value in code.co_consts for c in (value if type(value) is tuple else [value])
        ]
    else:
        strings = [""]
    strings = [s for s in strings if isinstance(s, str)]
    return frozenset(re.split("[{%]", string)[0] for string in strings) or _ANY


def runs_in_turn(function: Any, names: Sequence[str]) -> bool:
    """Whether the source runs these children of ``self`` in turn, wherever it runs one.

    That is ``v = self.a(...)`` followed by ``v = self.b(v)``, or ``self.b(self.a(...))``.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return False
    first, last = names[0], names[-1]
    uses = sum(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Constant) and node.value in names)
        for node in ast.walk(tree)
    )
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
    return 0 < uses == 2 * pairs


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
