"""Finds an op's facts from the way a node writes it."""

from __future__ import annotations

import builtins
import functools
import inspect
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx import private
from bnfx.passes.fx.facts.known import Facts
from bnfx.passes.fx.facts.op_table import TABLE

# In order of preference, where a function is in several: a twin's arguments are as its own.
NAMESPACES = (torch, private.NN, torch.linalg, torch.special, F)
IN_PLACE_OPERATORS = frozenset(
    getattr(operator, name)
    for name in dir(operator)
    if name.startswith("i") and (hasattr(operator, name[1:]) or hasattr(operator, f"{name[1:]}_"))
)


@dataclass(frozen=True)
class Spelling:
    """A way to write an op.

    Args:
        facts: the op's.
        functional: the target that makes a new value, where this one writes over its first
            argument; ``None`` where it does not.
    """

    facts: Facts
    functional: Any | None = None


def by_name() -> dict[str, Facts]:
    """Every name in the table."""
    found: dict[str, Facts] = {}
    for facts in TABLE:
        for name in facts.names:
            assert name not in found, f"{name} has two rows"
            found[name] = facts
    return found


_NAMES = by_name()
_MODULES = {kind: facts for facts in TABLE for kind in facts.modules}


def _functions() -> Iterator[tuple[Any, Spelling]]:
    """Functions, and augmented assignments; a function may have several names."""
    for name, facts in _NAMES.items():
        for space in NAMESPACES:
            function = getattr(space, name, None)
            if not inspect.isroutine(function):
                continue
            yield function, Spelling(facts)
            twin = getattr(space, f"{name}_", None)
            if inspect.isroutine(twin):
                yield twin, Spelling(facts, function)
    for facts in TABLE:
        for name in facts.operators:
            function = getattr(operator, name)
            yield function, Spelling(facts)
            if hasattr(builtins, name):
                yield getattr(builtins, name), Spelling(facts)
            if hasattr(operator, f"i{name}"):
                yield getattr(operator, f"i{name}"), Spelling(facts, function)


def _methods() -> Iterator[tuple[str, Spelling]]:
    for name, facts in _NAMES.items():
        if callable(getattr(torch.Tensor, name, None)):
            yield name, Spelling(facts)
        if callable(getattr(torch.Tensor, f"{name}_", None)):
            yield f"{name}_", Spelling(facts, name)


def _unique(spellings: Iterable[tuple[Any, Spelling]]) -> dict[Any, Spelling]:
    found: dict[Any, Spelling] = {}
    for target, spelling in spellings:
        first = found.setdefault(target, spelling)
        assert first.facts is spelling.facts, f"{target} has two rows"
    return found


FUNCTIONS: dict[Any, Spelling] = _unique(_functions())
METHODS: dict[str, Spelling] = _unique(_methods())
ATTRIBUTES: dict[str, Spelling] = {
    name: Spelling(facts)
    for name, facts in _NAMES.items()
    if hasattr(torch.Tensor, name) and not callable(getattr(torch.Tensor, name))
}


def spelling_of(node: fx.Node) -> Spelling | None:
    """How a node that calls no module writes an op of the table; ``None`` for any other."""
    if node.op == "call_method":
        return METHODS.get(str(node.target))
    if node.op != "call_function":
        return None
    if node.target is getattr:
        return ATTRIBUTES.get(str(node.args[1])) if len(node.args) == 2 else None
    return FUNCTIONS.get(node.target) or _overload(node.target)


def facts_of(node: fx.Node) -> Facts | None:
    """What is known of a node that calls no module."""
    spelling = spelling_of(node)
    return None if spelling is None else spelling.facts


def facts_of_class(kind: type[nn.Module]) -> Facts | None:
    """What is known of a call of a module of torch's, of exactly this class."""
    return _MODULES.get(kind)


def named(name: str) -> Facts:
    """The row of an op."""
    return _NAMES[name]


@functools.cache
def _overload(target: Any) -> Spelling | None:
    """An overload of ATen's, or the packet of all of a name. Schemas tell what is written."""
    if isinstance(target, private.OpOverloadPacket):
        space, _, name = str(target).partition(".")
        return Spelling(_NAMES[name]) if space == "aten" and name in _NAMES else None
    name = aten_name(target)
    schema = private.schema_of(target)
    if schema is None:
        return None
    if not schema.is_mutable:
        return Spelling(_NAMES[name]) if name in _NAMES else None
    facts, twin = _NAMES.get(name.removesuffix("_")), _twin(target)
    return None if facts is None or twin is None else Spelling(facts, twin)


def aten_name(target: Any) -> str:
    """``"add"`` for ``aten.add.Tensor``; ``""`` for what is no overload of ATen's."""
    schema = private.schema_of(target)
    space, _, name = ("", "", "") if schema is None else schema.name.partition("::")
    return str(name) if space == "aten" else ""


def _twin(target: Any) -> Any | None:
    """``aten.add.Tensor`` for ``aten.add_.Tensor``: the same arguments, and a new value."""
    packet = getattr(torch.ops.aten, aten_name(target).removesuffix("_"), None)
    other = getattr(packet, target._overloadname, None)
    schema = private.schema_of(other)
    if schema is None or schema.is_mutable:
        return None
    same = _arguments(private.schema_of(target)) == _arguments(schema)
    return other if same else None


def _arguments(schema: Any) -> list[tuple[str, str]]:
    """Names and types, whatever is written to."""
    return [(each.name, str(each.type)) for each in schema.arguments]


@functools.cache
def parameters_of(function: Any) -> tuple[str, ...]:
    """The names of a function's parameters; none for builtins, and what is no function."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
