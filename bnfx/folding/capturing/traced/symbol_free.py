"""Which expressions certainly have nothing to do with a symbol."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import torch

from bnfx.folding.capturing.traced.bindings import Element
from bnfx.folding.capturing.traced.traced_names import UNKNOWN, TracedNames, function_of
from bnfx.folding.modules.plain.data import is_constant, is_data

# Python's that ask a symbol what it does not note: of their first, or first two, arguments.
LOOKING = {"type": 1, "callable": 1, "hasattr": 1, "getattr": 1, "issubclass": 2}
TEXTS = frozenset(["str", "repr"])
NUMBERS = frozenset(["len", "int", "float", "bool", "isinstance", "callable", "hasattr"])
_NEW = frozenset(["list", "tuple", "dict", "set", "frozenset", "range", "zip", "enumerate"])
_NEW |= frozenset(["sorted", "map", "filter", "type", "slice"])
_DISPLAYS: tuple[type[ast.expr], ...] = (
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
)
_DISPLAYS += (ast.GeneratorExp, ast.JoinedStr, ast.Lambda)
_TRUTHS = (ast.Is, ast.IsNot, ast.In, ast.NotIn)
_COMPUTED = frozenset(["min", "max", "sum", "abs", "round", "pow", "divmod"])


class SymbolFree:
    """Expressions of one run of a function, by the names that are proved so far."""

    def __init__(self, names: TracedNames) -> None:
        self._names, self._bindings = names, names.bindings
        run, own = names.run, self._bindings.locals.difference(self._bindings.given)
        begun = {*self._bindings.given, *run.code.co_freevars}
        self._no_symbols = own | (begun - run.symbols)
        self._frees = own | (begun & run.constants)
        self._narrow(self._frees, self.is_free)
        self._narrow(self._no_symbols, self.is_no_symbol)

    def _narrow(self, proved: set[str], proves: Callable[[ast.AST], bool]) -> None:
        """Leave the names that are bound to such expressions only, if all these names are such."""
        bound = self._bindings.bound
        while bad := {
            name
            for name in proved
            if not all(v is not None and proves(v) for v in bound.get(name, ()))
        }:
            proved -= bad

    def is_no_symbol(self, node: ast.AST) -> bool:
        """Whether its value is none, whatever that holds."""
        value = self._names.value_of(node)
        if value is not UNKNOWN:
            return not isinstance(value, torch.Tensor)
        if isinstance(node, ast.Name):
            return node.id in self._no_symbols
        if isinstance(node, _DISPLAYS) or self._names.modules_of(node):
            return True
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return True
        if isinstance(node, ast.Compare) and all(isinstance(op, _TRUTHS) for op in node.ops):
            return True
        if isinstance(node, ast.BoolOp):
            return all(map(self.is_no_symbol, node.values))
        if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Compare)):  # objects may answer by any
            return all(map(self.is_free, _operands(node)))
        if isinstance(node, ast.IfExp):
            return self.is_no_symbol(node.body) and self.is_no_symbol(node.orelse)
        if isinstance(node, ast.NamedExpr):
            return self.is_no_symbol(node.value)
        if isinstance(node, ast.Call):
            return self._gives_none(node)
        return self._is_element_of_data(node) or self._is_held(node)

    def _is_held(self, node: ast.AST) -> bool:
        """Whether it is an attribute of an argument that led to no symbol. Nobody sets another."""
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            return False
        name, names = node.value.id, self._names
        given = name in self._bindings.given and not self._bindings.bound.get(name)
        changed = node.attr in names.facts.stored or names.facts.writes
        return given and not changed and node.attr in names.run.held.get(name, ())

    def _gives_none(self, node: ast.Call) -> bool:
        called = node.func
        if isinstance(called, ast.Name) and not self._bindings.is_own(called.id):
            if called.id in NUMBERS | _NEW | TEXTS:
                return True
            return called.id in _COMPUTED and self.is_free(node)
        function = function_of(self._names.value_of(called))
        code, facts = getattr(function, "__code__", None), self._names.facts
        return code in facts.ran and code not in facts.gives

    def is_free(self, node: ast.AST) -> bool:
        """Whether its value is no symbol, holds none, and is none that can come to hold one."""
        value = self._names.value_of(node)
        if value is not UNKNOWN:
            fixed = self._names.is_fixed(value)
            return is_constant(value) or value is None or (fixed and is_data(value))
        if isinstance(node, ast.Name):
            return node.id in self._frees
        if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare)):
            return all(map(self.is_free, _operands(node)))
        if isinstance(node, ast.Tuple):
            return all(map(self.is_free, node.elts))
        if isinstance(node, ast.IfExp):
            return self.is_free(node.body) and self.is_free(node.orelse)
        if isinstance(node, ast.JoinedStr):
            shown = (v.value for v in node.values if isinstance(v, ast.FormattedValue))
            return all(map(self.is_free, shown))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if self._bindings.is_own(name):
                return False
            free = all(map(self.is_free, node.args)) and not node.keywords
            return name in NUMBERS or (free and name in TEXTS | _COMPUTED | {"range"})
        return self._is_element_of_data(node)

    def _is_element_of_data(self, node: ast.AST) -> bool:
        """Of a list of numbers or texts that a module has, say; of a ``range``."""
        if not isinstance(node, (ast.Subscript, Element)):
            return False
        of = node.of if isinstance(node, Element) else node.value
        held = self._names.value_of(of)
        if held is UNKNOWN:
            return self._bindings.is_builtin(of, "range")
        return is_constant(held) or (is_data(held) and self._names.is_fixed(held))


def _operands(node: Any) -> list[ast.AST]:
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return list(node.values) if isinstance(node, ast.BoolOp) else [node.operand]
