"""Python's own ways to an attribute whose name is computed, and how code may call them."""

from __future__ import annotations

import ast
import builtins
import inspect
import operator

from torch import func

from bnfx.folding.modules.reading.functions.naming import resolve_global
from bnfx.folding.modules.reading.reachable import Function

COMPUTING = frozenset(
    [
        "eval",
        "exec",
        "vars",
        "locals",
        "globals",
        "compile",
        "attrgetter",
        "methodcaller",
        "getmembers",
        "getattr_static",
        "__getstate__",
        "__reduce__",
        "__reduce_ex__",
        "_getframe",
        "currentframe",
        "f_locals",
        # These run a module with weights that they are given.
        "functional_call",
        "stack_module_state",
    ]
)
ACCESS = frozenset(["getattr", "setattr", "delattr"])
# The same by other names: ``asks = getattr``, ``from operator import attrgetter as of``.
_BY_OTHER_NAMES = [
    getattr(python, name)
    for python in (builtins, operator, inspect, func)
    for name in COMPUTING | ACCESS
    if hasattr(python, name) and (python, name) != (builtins, "compile")
]


def takes_apart(node: ast.AST) -> bool:
    """``case Block(conv=found)``."""
    return isinstance(node, ast.MatchClass) and bool(node.patterns or node.kwd_patterns)


def computes(function: Function, node: ast.AST) -> bool:
    """Whether a name is another one for what gets attributes by their names."""
    value = resolve_global(function.function, node)
    return any(value is each for each in _BY_OTHER_NAMES)
