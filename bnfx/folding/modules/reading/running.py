"""Which functions a call of the model may run: those that are named from where a call begins."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from bnfx.folding.capturing.asking.shown_text import called_name
from bnfx.folding.modules.reading.computed_names import ANY, pattern
from bnfx.folding.modules.reading.dependence import parents_of
from bnfx.folding.modules.reading.functions.class_attributes import unwrapped
from bnfx.folding.modules.reading.functions.naming import imported, named, resolve_global
from bnfx.folding.modules.reading.reachable import Function, Reachable

_MAKING = frozenset(["__init__", "__new__", "__post_init__", "__init_subclass__"])
_SHOWING = frozenset(["__repr__", "__str__"])
_COMPUTING = frozenset(["exec", "vars", "locals", "globals", "getmembers", "__dict__"])


class Running:
    """Functions by what may run them: too many rather than too few.

    A function is run if its name, or the one that its class has it by, is written in a function
    that is run: as a name, an attribute or a string. Where a name is computed, all that it may be
    are.

    Args:
        reachable: all code of the model's.
        trusted: whether a method of that name is taken for none that gives answers.
    """

    def __init__(self, reachable: Reachable, trusted: Callable[[str], bool]) -> None:
        self._functions = reachable.functions
        self._names: dict[Function, set[str]] = {}
        self._by_name: dict[Any, set[Function]] = {}
        for function in self._functions:
            code = function.function.__code__
            self._names[function] = {_own_name(function), *reachable.names.get(code, ())}
            for key in (code, *self._names[function]):
                self._by_name.setdefault(key, set()).add(function)
        held = reachable.held_code
        kinds: set[type] = {nn.Module}
        kinds |= {base for kind in reachable.held_kinds for base in kind.__mro__}
        escaped = {name for f in self._functions for name in _escaped(f)}
        begins = [
            f
            for f in self._functions
            if f.function.__code__ in held
            or self._begins(f)
            or (f.kind in kinds and not _MAKING.isdisjoint(self._names[f]))
            or (trusted(_own_name(f)) and not escaped.isdisjoint(self._names[f]))
        ]
        given = [f for f in self._functions if _is_given(f) or _keeps(f)]
        asked = [f for f in given if not trusted(_own_name(f))]
        called = self._closure(begins, set())
        answering = self._closure(asked, called)
        # By calls of the model, or of what it holds; and of methods given, or keeping, something.
        self.by_calls = frozenset(function.node for function in called)
        self.by_answers = frozenset(function.node for function in answering)

    def _begins(self, function: Function) -> bool:
        """Whether a call of a module begins there, or an operator on an object."""
        special = {name for name in self._names[function] if re.fullmatch("__.*__", name)}
        return "forward" in self._names[function] or bool(special - _MAKING - _SHOWING)

    def _closure(self, begin: Iterable[Function], known: set[Function]) -> set[Function]:
        """What is run from there, besides what is known to be run, and with it."""
        found, stack = set(known), list(begin)
        while stack:
            function = stack.pop()
            if function not in found:
                found.add(function)
                stack += self._named(function)
        return found

    def _named(self, function: Function) -> set[Function]:
        found: set[Function] = set()
        for inner, _ in unwrapped(function.function):
            found |= self._by_name.get(inner.__code__, set())
        for each in set(_names(function)):
            if isinstance(each, re.Pattern):
                found |= {f for f in self._functions if any(map(each.fullmatch, self._names[f]))}
            elif isinstance(each, type):
                made = (f for name in _MAKING for f in self._by_name.get(name, ()))
                found |= {f for f in made if f.kind in (*each.__mro__, nn.Module)}
            else:
                found |= self._by_name.get(each, set())
        return found


def _own_name(function: Function) -> str:
    """The name that a function was defined by."""
    return function.name.rpartition(".")[2]


def _escaped(function: Function) -> Iterator[str]:
    """Names of functions that may be kept and run later; ``apply`` runs what it is given now."""
    parents = parents_of(function.node)
    for node in ast.walk(function.node):
        if not isinstance(node, (ast.Name, ast.Attribute)) or not isinstance(node.ctx, ast.Load):
            continue
        above: ast.AST | None = parents.get(node)
        if isinstance(above, ast.Attribute) or (isinstance(above, ast.Call) and above.func is node):
            continue
        while isinstance(above, ast.Call) and called_name(above) == "partial":
            above = parents.get(above)
        if not isinstance(above, ast.Call) or not called_name(above).endswith("apply"):
            yield node.id if isinstance(node, ast.Name) else node.attr


def _is_given(function: Function) -> bool:
    """Whether a method must be given something, besides the object that it belongs to."""
    code, made = function.function.__code__, function.function
    required = code.co_argcount - len(made.__defaults__ or ())
    required += code.co_kwonlyargcount - len(made.__kwdefaults__ or {})
    return function.kind is not None and required > bool(function.owner)


def _keeps(function: Function) -> bool:
    """Whether it binds an attribute or an element, which calls may read later."""
    written = (
        node
        for node in ast.walk(function.node)
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store)
    )
    return any(getattr(node, "attr", "") != "requires_grad" for node in written)


def _names(function: Function) -> Iterator[Any]:
    """What it names: strings, patterns, classes, and the code of functions."""
    imports = imported(function.function, function.node)
    for node in ast.walk(function.node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.split(".")
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.MatchClass):
            yield from node.kwd_attrs
        elif isinstance(node, ast.Call):
            yield from _computed(function, node)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            yield ANY if name in _COMPUTING else name
            for value in named(function.function, node, imports):
                if isinstance(value, FunctionType):
                    yield from (each.__code__ for each, _ in unwrapped(value))
                elif isinstance(value, type):
                    yield value


def _computed(function: Function, call: ast.Call) -> Iterator[re.Pattern[str]]:
    """What names that a call looks up may be."""
    name = called_name(call)
    if name in ("attrgetter", "methodcaller"):
        yield from (pattern(each, function.node) for each in call.args)
    elif name in ("getattr", "getattr_static", "__getattribute__", "__getattr__"):
        of = resolve_global(function.function, call.args[0]) if len(call.args) > 1 else None
        if not isinstance(of, ModuleType):
            yield pattern(call.args[-1 if len(call.args) == 1 else 1], function.node)
    elif name == "eval" and isinstance(call.func, ast.Name):
        yield ANY
