"""Which names code that runs with symbols may use."""

from __future__ import annotations

import ast
import builtins
import contextlib
from collections import OrderedDict
from types import ModuleType

from bnfx.folding.capturing.asking.modes import ASKING
from bnfx.folding.capturing.traced.known_objects import is_known
from bnfx.folding.capturing.traced.symbol_free import LOOKING, NUMBERS, TEXTS
from bnfx.folding.capturing.traced.traced_names import UNKNOWN, TracedNames
from bnfx.folding.modules.plain.library import BUILTINS, LAYOUT, SWITCHES

SCOPED = (*SWITCHES, contextlib.nullcontext)
# They hand on what they are given, raise for a symbol, or compute with one.
_PASSING = frozenset([*BUILTINS, "set", "frozenset", "sorted", "map", "filter", "iter", "next"])
_PASSING |= frozenset(["divmod", "pow", "slice", "super", "complex"])
# Called from C while code unpacks, a symbol would take itself for what is unpacked.
_ITERATING = frozenset(["sum", "enumerate", "iter", "list", "tuple", "set", "frozenset", "zip"])
_ITERATING |= frozenset(["sorted", "reversed", "any", "all", "min", "max", "dict", "next", "map"])
_ITERATING |= {"filter"}


class NameRules:
    """Those of one run of a function."""

    def __init__(self, names: TracedNames) -> None:
        self._names, self._bindings = names, names.bindings

    def is_known(self, node: ast.Name) -> bool:
        """Whether it is known to look at no symbol."""
        names, parent = self._names, self._bindings.parents.get(node)
        if node.id.startswith("__"):
            return False
        if node.id in self._bindings.locals:
            return not self._is_shadowed(node)
        if node.id in names.run.code.co_freevars:
            return True
        if node.id in names.run.space:
            return self._is_known_global(node)
        mine = getattr(builtins, node.id, None)
        if names.run.builtins.get(node.id) is not mine:
            return False
        if isinstance(mine, type) and issubclass(mine, BaseException):
            return True
        if node.id in LOOKING.keys() | TEXTS | {"print"}:
            return isinstance(parent, ast.Call) and parent.func is node
        if node.id in _ITERATING and not (isinstance(parent, ast.Call) and parent.func is node):
            return self._is_asked_for(node)
        return node.id in _PASSING | NUMBERS

    def _is_asked_for(self, node: ast.AST) -> bool:
        """``isinstance(x, (list, tuple))``, ``type(x) is list``: it is a class, and not called."""
        above = self._above(node)
        if isinstance(above, ast.Tuple):
            node, above = above, self._above(above)
        asked = self._bindings.is_builtin(above, "isinstance", "issubclass")
        return isinstance(above, ast.Compare) or asked

    def _is_shadowed(self, node: ast.Name) -> bool:
        """Whether a comprehension has its own name that is Python's or the file's elsewhere."""
        run = self._names.run
        outside = node.id in run.space or node.id in run.code.co_freevars
        outside = outside or hasattr(builtins, node.id)
        return outside and not self._bindings.is_bound_outside_comprehensions(node.id)

    def _is_known_global(self, node: ast.Name) -> bool:
        whole: ast.AST = node
        value = self._names.value_of(node)
        while isinstance(value, (ModuleType, type)):
            above = self._bindings.parents.get(whole)
            if not isinstance(above, ast.Attribute):
                break
            whole, value = above, self._names.value_of(above)
        if isinstance(value, ModuleType):  # ``F is not None``: it is in front of nothing
            return isinstance(self._bindings.parents.get(whole), ast.Compare)
        if value is UNKNOWN:
            return False
        call = self._bindings.parents.get(whole)
        called = isinstance(call, ast.Call) and call.func is whole
        if any(value is each for each in SCOPED):
            return called and isinstance(self._above(call), ast.withitem)
        name = str(getattr(value, "__name__", ""))
        if called and (name in ASKING or value is OrderedDict):
            return True
        return is_known(value) and name not in LAYOUT

    def _above(self, node: ast.AST | None) -> ast.AST | None:
        return None if node is None else self._bindings.parents.get(node)
