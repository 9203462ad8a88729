"""What names and attributes of a function that ran in a trace stand for."""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from bnfx.folding.capturing.asking.bindings import Bindings, Element
from bnfx.folding.capturing.asking.runs import Facts, Run
from bnfx.folding.modules.plain.data import INTERNAL, is_data
from bnfx.folding.modules.plain.library import is_known as is_librarys

UNKNOWN = object()
_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict, nn.ParameterList, list, tuple, dict)


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
            if type(held) in _LISTS:
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
        if len(node.args) == 3 and isinstance(held, nn.Module) and not hasattr(held, name):
            return UNKNOWN if name in self.facts.stored else self.value_of(node.args[2])
        return self._attribute(held, name)

    def _attribute(self, held: Any, name: str) -> Any:
        return UNKNOWN if name in self.facts.stored else _attribute(held, name)

    def is_module(self, node: ast.AST) -> bool:
        """Whether it certainly is a module."""
        if isinstance(self.value_of(node), nn.Module):
            return True
        if not isinstance(node, ast.Name) or node.id in self.bindings.given:
            return False
        values = self.bindings.bound.get(node.id, [])
        return bool(values) and all(v is not None and self._gives_modules(v) for v in values)

    def _gives_modules(self, node: ast.expr) -> bool:
        if not isinstance(node, Element):
            return isinstance(self.value_of(node), nn.Module)
        held = self.value_of(node.of)
        if isinstance(held, (nn.ModuleList, nn.Sequential)):
            return type(held).__iter__ in (nn.ModuleList.__iter__, nn.Sequential.__iter__)
        return type(held) in (list, tuple) and all(isinstance(each, nn.Module) for each in held)


def _attribute(held: Any, name: str) -> Any:
    if isinstance(held, nn.Module):
        tables = (vars(held), held._modules, held._parameters, held._buffers)
        found = next((table[name] for table in tables if name in table), UNKNOWN)
        return _of_class(type(held), name) if found is UNKNOWN else found
    if type(held) is ModuleType:
        return vars(held).get(name, UNKNOWN)
    if isinstance(held, type):
        return _of_class(held, name)
    return UNKNOWN if held is UNKNOWN else getattr(held, "__dict__", {}).get(name, UNKNOWN)


def _of_class(kind: type, name: str) -> Any:
    """What a class has under a name, unless that computes something else."""
    found = inspect.getattr_static(kind, name, UNKNOWN)
    return found if function_of(found) is not None or is_data(found) else UNKNOWN


def function_of(value: Any) -> FunctionType | None:
    """The function of Python's that calling it runs first."""
    made = getattr(value, "__func__", value)
    return made if type(made) is FunctionType else None


def held_by(module: nn.Module, names: set[str]) -> Iterator[tuple[str, Any]]:
    """What a module and its classes have under these names; under any, if ``""`` is among them."""
    every = "" in names
    for name, value in vars(module).items():
        if name not in INTERNAL and (every or name in names):
            yield name, value
    for kind in type(module).__mro__:
        for name, value in () if is_librarys(kind) else vars(kind).items():
            if (every or name in names) and not name.startswith("__"):
                yield name, value
