"""Python's functions that look at what they are given, by whichever name they are called."""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Builtins that pass values on and never look at them, or that a proxy refuses with an error.
PASSING = frozenset(
    ["list", "tuple", "zip", "enumerate", "reversed", "dict", "range", "print", "super"]
)
PASSING |= frozenset(["abs", "sum", "slice", "float", "int", "bool", "len", "iter", "next"])
PASSING |= frozenset(["round", "min", "max", "sorted", "any", "all", "divmod", "pow", "complex"])
# Those that look, also where they are handed on; and the same from the module ``operator``.
OPERATORS = frozenset(["is_", "is_not", "contains", "truth", "not_", "indexOf", "countOf"])
LOOKING = OPERATORS | frozenset(
    ["isinstance", "issubclass", "type", "hasattr", "callable", "id", "hash"]
)
_NAMES = {id(value): name for name, value in vars(builtins).items() if callable(value)}
_NAMES |= {id(getattr(operator, name)): name for name in OPERATORS}


def builtin(value: Any) -> str | None:
    """What a function of Python's is called; ``None`` for another value."""
    return _NAMES.get(id(value))


def meant(node: ast.AST, space: Callable[[str], Any]) -> Any:
    """What a name stands for in ``space``, or an attribute of a Python module there."""
    if isinstance(node, ast.Name):
        return space(node.id)
    if isinstance(node, ast.Attribute):
        held = meant(node.value, space)
        return vars(held).get(node.attr) if isinstance(held, ModuleType) else None
    return None
