"""Whether what code does with a module leaves it where a reader of the code can follow it.

Whatever gets at a layer gets at the modules above it first. So these may only be called, asked for
an attribute, looked at, gone through, and bound to the same attribute, or to a local name that is
used so. What hands one on otherwise, as to a function that is not read, may do anything.
"""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Iterator

from torch import nn

from bnfx.folding.modules.reading.computed_names import bindings
from bnfx.folding.modules.reading.dependence import is_local, runs_in_order
from bnfx.folding.modules.reading.uses import Uses

# They give what they are given, or its elements.
_THROUGH = frozenset(["enumerate", "zip", "reversed", "list", "tuple", "iter", "next", "sorted"])
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, OrderedDict)
_GIVING = frozenset(["values", "items", "get", "pop", "__getitem__", "__iter__", "__next__"])
_FILLING = ("append", "extend", "insert")
_ASKING = frozenset(["isinstance", "hasattr", "type", "id", "len", "print", "repr", "str"])


class InSight(Uses):
    def parameters_for(self, call: ast.Call, given: ast.AST) -> Iterator[tuple[ast.AST, str]]:
        """The functions that a call may run, and their names for an argument.

        Raises:
            LookupError: if not all of them are read.
        """
        raise NotImplementedError

    def stays_in_sight(
        self, node: ast.AST, name: str, seen: frozenset[ast.AST] = frozenset()
    ) -> bool:
        """Whether the expression, which may be a module or hold some, is handed to nobody else.

        Args:
            name: the attribute that it is; it may be bound to that again.
        """
        if node in seen:
            return True
        seen |= {node}
        above = self.parents.get(node)
        if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return True  # it is bound: what it is then is followed from there
        if isinstance(above, ast.Attribute):
            call = self.parents.get(above)
            if above.attr in _GIVING and isinstance(call, ast.Call) and call.func is above:
                return self.stays_in_sight(call, name, seen)
            return True  # what that is counts by its own name
        if isinstance(above, ast.Subscript) and above.slice is node:
            return True
        if isinstance(above, (ast.Subscript, ast.IfExp, ast.BoolOp, ast.Starred)):
            return self.stays_in_sight(above, name, seen)
        if isinstance(above, (ast.Tuple, ast.List)):
            return self.stays_in_sight(above, name, seen)
        if isinstance(above, (ast.For, ast.comprehension)) and above.iter is node:
            return self._names_stay(self._without_number(above), name, seen)
        if isinstance(above, (ast.If, ast.While, ast.Expr, ast.Compare, ast.UnaryOp, ast.Assert)):
            return True
        if isinstance(above, ast.FormattedValue):
            return True  # text is looked at elsewhere
        if isinstance(above, ast.Assign) and above.value is node:
            return all(self._names_stay(target, name, seen) for target in above.targets)
        if isinstance(above, (ast.NamedExpr, ast.AnnAssign)) and above.value is node:
            return self._names_stay(above.target, name, seen)
        if isinstance(above, ast.Return):
            return not self.answers(above)  # whoever calls it has the model as well
        return isinstance(above, ast.Call) and self._call_keeps(above, node, name, seen)

    def _call_keeps(
        self, call: ast.Call, node: ast.AST, name: str, seen: frozenset[ast.AST]
    ) -> bool:
        if call.func is node:
            return True
        python = self.python_name(call)
        if python in _ASKING:
            return True
        if python in ("getattr", "setattr", "delattr"):
            return bool(call.args) and call.args[0] is node
        function = self.resolve(call.func)
        if python in _THROUGH or function in _CONTAINERS:
            return self.stays_in_sight(call, name, seen)
        if runs_in_order(function) or self.is_initialiser(call):
            return True
        if isinstance(call.func, ast.Attribute) and call.func.attr in _FILLING:
            return self._names_stay(call.func.value, name, seen)
        try:
            places = list(self.parameters_for(call, node))
        except LookupError:
            return False
        return all(self._uses_stay(scope, given, name, seen) for scope, given in places)

    def _without_number(self, loop: ast.For | ast.comprehension) -> ast.AST:
        """The target of a loop: of ``enumerate``, what is counted."""
        target, source = loop.target, loop.iter
        counts = isinstance(source, ast.Call) and self.python_name(source) == "enumerate"
        if counts and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            return target.elts[1]
        return target

    def _names_stay(self, target: ast.AST, name: str, seen: frozenset[ast.AST]) -> bool:
        if isinstance(target, (ast.Tuple, ast.List)):
            return all(self._names_stay(each, name, seen) for each in target.elts)
        if isinstance(target, ast.Attribute):
            return target.attr == name  # whatever names it from there is followed, too
        scope = self.scope(target)
        if not isinstance(target, ast.Name) or scope is None or not is_local(target.id, scope):
            return False
        bound = target.id in bindings(scope)
        return bound and self._uses_stay(scope, target.id, name, seen)

    def _uses_stay(self, scope: ast.AST, local: str, name: str, seen: frozenset[ast.AST]) -> bool:
        return all(
            self.stays_in_sight(use, name, seen)
            for use in ast.walk(scope)
            if isinstance(use, ast.Name) and use.id == local and isinstance(use.ctx, ast.Load)
        )
