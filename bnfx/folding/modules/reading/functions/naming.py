"""What names stand for, in the Python module of a function and in what it imports."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from bnfx.folding.modules.reading.functions.library import is_library


def resolve_global(function: FunctionType, node: ast.AST) -> Any:
    """What a name of the module, or of one that it imports, stands for."""
    root, _ = _taken_apart(node)
    if root is None or is_bound(function, root):
        return None
    return _looked_up(function.__globals__.get(root), node)


def named(function: FunctionType, node: ast.AST, imports: dict[str, list[Any]]) -> list[Any]:
    """All that a name may stand for, if ``imports`` are bound where it stands."""
    root, _ = _taken_apart(node)
    values = [_looked_up(value, node) for value in imports.get(root or "", ())]
    return [*values, resolve_global(function, node)]


def imported(function: FunctionType, node: ast.AST) -> dict[str, list[Any]]:
    """What the body of a function imports, by the names that it binds.

    Raises:
        LookupError: for what is not loaded yet, and would have to be run to be read.
    """
    found: dict[str, list[Any]] = {}
    for name, value in _imports(function, node):
        found.setdefault(name, []).append(value)
    return found


def _imports(function: FunctionType, node: ast.AST) -> Iterator[tuple[str, Any]]:
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            for alias in each.names:
                module = _loaded(alias.name)
                top = alias.name.partition(".")[0]
                yield alias.asname or top, module if alias.asname else sys.modules.get(top)
        elif isinstance(each, ast.ImportFrom):
            package = str(function.__globals__.get("__package__") or "")
            dots = "." * each.level
            path = importlib.util.resolve_name(dots + (each.module or ""), package)
            module = _loaded(path)
            for alias in each.names:
                value = getattr(module, alias.name, None)
                if value is None and not is_library(path):
                    value = _loaded(f"{path}.{alias.name}")
                yield alias.asname or alias.name, value


def _loaded(path: str) -> ModuleType | None:
    module = sys.modules.get(path)
    if module is None and not is_library(path):
        raise LookupError(path)
    return module


def is_bound(function: FunctionType, name: str) -> bool:
    """Whether a name is one of the function's own, or of a function around it."""
    code = function.__code__
    return name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def _taken_apart(node: ast.AST) -> tuple[str | None, list[str]]:
    """A name, and the attributes that are asked for behind it."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return node.id if isinstance(node, ast.Name) else None, names[::-1]


def _looked_up(value: Any, node: ast.AST) -> Any:
    for name in _taken_apart(node)[1]:
        if not isinstance(value, (ModuleType, type)):
            return None
        value = inspect.getattr_static(value, name, None)
    return value
