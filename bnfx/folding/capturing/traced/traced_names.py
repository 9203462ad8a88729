"""What names and attributes of a function that ran in a trace stand for."""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from bnfx.folding.capturing.traced.bindings import Bindings, Element
from bnfx.folding.capturing.traced.known_objects import TOLD
from bnfx.folding.capturing.traced.runs import Facts, Run
from bnfx.folding.modules.plain.data import INTERNAL, is_data
from bnfx.folding.modules.plain.library import is_known as is_librarys

UNKNOWN = object()
_OF_TORCH = (nn.ModuleList, nn.Sequential, nn.ModuleDict, nn.ParameterList)


class TracedNames:
    """One run of a function: what its expressions stood for.

    Args:
        run: what ran.
        bindings: what binds its names.
        facts: what all did that ran.
    """

    def __init__(self, run: Run, bindings: Bindings, facts: Facts) -> None:
        self.run, self.bindings, self.facts = run, bindings, facts

    def value_of(self, node: ast.AST) -> Any:
        """What an expression stands for, if that is known: a module and what it has, what names
        outside of the function stand for. ``UNKNOWN`` if it is not.
        """
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(self.value_of(node.value), node.attr)
        if self.bindings.is_builtin(node, "getattr"):
            return self._gotten(node)  # type: ignore[arg-type]
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            held = self.value_of(node.value)
            if self.is_fixed(held):
                with contextlib.suppress(LookupError, TypeError):
                    return held[node.slice.value]
        return UNKNOWN

    def _named(self, name: str) -> Any:
        bound = self.bindings.bound
        values = bound.get(name, [])
        if name in self.bindings.given:
            return self.run.modules.get(name, UNKNOWN) if not values else UNKNOWN
        if len(values) == 1 and values[0] is not None:
            bound[name] = []  # a name may be bound to what it is bound to
            try:
                return self.value_of(values[0])
            finally:
                bound[name] = values
        if name in self.bindings.locals:
            return UNKNOWN
        if name in self.run.code.co_freevars:
            return self.run.free.get(name, UNKNOWN)
        return self.run.space.get(name, UNKNOWN)

    def _gotten(self, node: ast.Call) -> Any:
        if len(node.args) not in (2, 3) or not isinstance(node.args[1], ast.Constant):
            return UNKNOWN
        held, name = self.value_of(node.args[0]), str(node.args[1].value)
        if len(node.args) == 3 and self.lacks(held, name):
            return self.value_of(node.args[2])
        return self._attribute(held, name)

    def _attribute(self, held: Any, name: str) -> Any:
        if name in self.facts.stored:
            return UNKNOWN
        table = not isinstance(held, (nn.Module, ModuleType, type))  # it may be a dict's
        return UNKNOWN if table and self.facts.writes else attribute_of(held, name)

    def lacks(self, held: Any, name: str) -> bool:
        """Whether it certainly is a module without an attribute of that name."""
        if not isinstance(held, nn.Module) or not _is_asked_by_torch(type(held)):
            return False
        tables = (vars(held), held._parameters, held._buffers, held._modules, self.facts.stored)
        found = any(name in table for table in tables)
        return not found and inspect.getattr_static(type(held), name, UNKNOWN) is UNKNOWN

    def asks_truly(self, node: ast.Call) -> bool:
        """Whether ``hasattr``, or ``getattr`` with a default, asks modules, for what is stored."""
        name: Any = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
        modules = self.modules_of(node.args[0])
        known = (self.lacks(m, name) or attribute_of(m, name) is not UNKNOWN for m in modules)
        return isinstance(name, str) and bool(modules) and all(known)

    def modules_of(self, node: ast.AST) -> list[nn.Module]:
        """All modules that an expression may stand for; none where it may be something else."""
        value = self.value_of(node)
        if isinstance(value, nn.Module):
            return [value]
        if not isinstance(node, ast.Name) or node.id in self.bindings.given:
            return []
        found = [
            [] if value is None else self._given_modules(value)
            for value in self.bindings.bound.get(node.id, [])
        ]
        return [each for some in found for each in some] if all(found) else []

    def _given_modules(self, node: ast.expr) -> list[nn.Module]:
        if not isinstance(node, Element):
            value = self.value_of(node)
            return [value] if isinstance(value, nn.Module) else []
        held = self.value_of(node.of)
        if not self.is_fixed(held) or isinstance(held, (dict, nn.ModuleDict, nn.ParameterList)):
            return []
        return [*held] if all(isinstance(each, nn.Module) for each in held) else []

    def is_fixed(self, value: Any) -> bool:
        """Whether a list or dict is as it was when code read it, since nobody writes to any."""
        if isinstance(value, _OF_TORCH):
            kind = type(value)
            torchs = all(
                getattr(kind, name, None) in [getattr(each, name, None) for each in _OF_TORCH]
                for name in ("__getitem__", "__iter__")
            )
            return torchs and not self.facts.writes
        return type(value) in (list, tuple, dict) and not self.facts.writes


def attribute_of(held: Any, name: str) -> Any:
    """What an object has under a name, unless something computes it; else ``UNKNOWN``."""
    if isinstance(held, nn.Module):
        kind = type(held)
        if not _is_asked_by_torch(kind):
            return UNKNOWN
        tables = (vars(held), held._parameters, held._buffers, held._modules)
        found = next((table[name] for table in tables if name in table), UNKNOWN)
        if found is UNKNOWN:
            return _of_class(kind, name)
        hidden = inspect.getattr_static(kind, name, None)
        return UNKNOWN if hasattr(type(hidden), "__set__") else found
    if type(held) is ModuleType:
        return vars(held).get(name, UNKNOWN)
    if isinstance(held, type):
        return _of_class(held, name)
    kind = type(held)
    own: Any = kind.__getattribute__
    if held is UNKNOWN or own is not object.__getattribute__ or hasattr(kind, name):
        return UNKNOWN
    return getattr(held, "__dict__", {}).get(name, UNKNOWN)


def _is_asked_by_torch(kind: type) -> bool:
    """Whether attributes of a module are looked up as torch does it."""
    names = ("__getattribute__", "__getattr__")
    return all(getattr(kind, name) is getattr(nn.Module, name) for name in names)


def _of_class(kind: type, name: str) -> Any:
    """What a class has under a name, unless that computes something else."""
    if issubclass(kind, Enum):
        return kind.__members__.get(name, UNKNOWN)
    found = inspect.getattr_static(kind, name, UNKNOWN)
    return found if function_of(found) is not None or is_data(found) else UNKNOWN


def function_of(value: Any) -> FunctionType | None:
    """The function of Python's that calling it runs first."""
    made = getattr(value, "__func__", value)
    return made if type(made) is FunctionType else None


def is_traced_through(module: nn.Module, facts: Facts) -> bool:
    """Whether its forward ran: that of a layer does not, which is one step of the graph."""
    forward = function_of(type(module).forward)
    return forward is not None and forward.__code__ in facts.ran


def held_by(module: nn.Module, names: set[str]) -> Iterator[tuple[str, Any]]:
    """What a module and its classes have under these names; ``"a*"`` stands for all in ``a``. And
    what Python asks their classes for by itself.
    """
    begin = tuple(name[:-1] for name in names if name.endswith("*"))
    kinds = [kind for kind in type(module).__mro__ if not is_librarys(kind)]
    for held in (vars(module), *map(vars, kinds)):
        for name, value in held.items():
            special = name.startswith("__") and name not in TOLD
            if special or (
                (name in names or name.startswith(begin))
                and name not in INTERNAL
                and name not in TOLD
            ):
                yield name, value
