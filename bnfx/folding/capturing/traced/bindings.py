"""What binds the names of a function."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection

from bnfx.folding.capturing.traced.parts_of_code import body_of, flat, own, parameters
from bnfx.folding.modules.plain.source import Function

_FRESH = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.BinOp)
_ON_NUMBERS = (ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult, ast.LShift, ast.RShift)
WRITING = frozenset(
    ["append", "appendleft", "extend", "insert", "remove", "pop", "popitem", "clear"]
)
WRITING |= frozenset(["update", "setdefault", "add", "discard", "sort", "reverse", "move_to_end"])
WRITING |= frozenset(["difference_update", "intersection_update", "symmetric_difference_update"])


class Element(ast.expr):
    """Any element of what an expression gives."""

    _fields = ("of",)
    of: ast.expr


class Bindings:
    """A function's names.

    Args:
        tree: its source.
        outside: names from around it.

    Attributes:
        given: its arguments.
        locals: all names that are its own.
        bound: of a name, the expressions that it is bound to; ``None`` where it is part of a value.
        stored: names of attributes that it sets.
        writes: whether it writes to a list or dict that it does not make.
        augmented: arguments that ``+=`` may write to.
    """

    def __init__(self, tree: Function, outside: Collection[str]) -> None:
        self.tree, self._outside = tree, outside
        self.given = parameters(tree)
        self.nodes = [node for part in body_of(tree) for node in own(part)]
        self.parents = {c: node for node in self.nodes for c in ast.iter_child_nodes(node)}
        self.bound: defaultdict[str, list[ast.expr | None]] = defaultdict(list)
        named = [n for n in self.nodes if isinstance(n, (ast.Name, ast.Attribute))]
        written = [n for n in named if not isinstance(n.ctx, ast.Load)]
        self.stored = {n.attr for n in written if isinstance(n, ast.Attribute)}
        inside = {n.name for n in self.nodes if isinstance(n, ast.FunctionDef)}
        self.locals = {*self.given, *inside, *(n.id for n in written if isinstance(n, ast.Name))}
        for node in self.nodes:
            self._bind(node)
        self.augmented: set[str] = set()
        self.writes = bool([node for node in self.nodes if self._writes(node)])

    def values_of(self, node: ast.AST) -> list[ast.AST | None]:
        """What a name is bound to, also by another name; another expression by itself. ``None`` if
        that is not known.
        """
        left: list[ast.AST | None] = [node]
        names, found = set[str](), list[ast.AST | None]()
        while left:
            each = left.pop()
            if not isinstance(each, ast.Name):
                found.append(each)
            elif each.id not in names:
                names.add(each.id)
                given = each.id in self.given or each.id not in self.locals
                left += [None] if given else self.bound.get(each.id, [None])
        return found

    def _writes(self, node: ast.AST) -> bool:
        """Whether it writes to a list or dict that may be of somebody else."""
        if isinstance(node, ast.Attribute) and node.attr in WRITING:
            return not self._is_fresh(node.value)
        if isinstance(node, ast.Call) and self.is_builtin(node, "getattr"):
            return len(node.args) > 1 and getattr(node.args[1], "value", None) in WRITING
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            return not self._is_fresh(node.value)
        if not isinstance(node, ast.AugAssign) or isinstance(node.op, _ON_NUMBERS):
            return False
        if isinstance(node.target, ast.Name):
            values = self.values_of(node.target)
            if node.target.id in self.given:
                self.augmented.add(node.target.id)
                values.remove(None)
            return not all(
                isinstance(value, (*_FRESH, ast.Constant))
                or self.is_builtin(value, "list", "dict", "set", "len", "int", "float")
                for value in values
            )
        return True

    def _is_fresh(self, node: ast.AST) -> bool:
        """Whether it is a list or dict that the function makes."""
        made = ("list", "dict", "set")
        return isinstance(node, ast.Name) and all(
            isinstance(value, _FRESH) or self.is_builtin(value, *made)
            for value in self.values_of(node)
        )

    def is_builtin(self, node: ast.AST | None, *names: str) -> bool:
        """Whether it calls one of these of Python's functions, by its name."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return False
        return node.func.id in names and not self.is_own(node.func.id)

    def is_own(self, name: str) -> bool:
        """Whether a name is none of Python's."""
        return name in self.locals or name in self._outside

    def is_bound_outside_comprehensions(self, name: str) -> bool:
        """Whether it is a name of the function's own, not only of a comprehension's in it."""
        if name in self.given:
            return True
        if any(isinstance(n, ast.FunctionDef) and n.name == name for n in self.nodes):
            return True
        named = [n for n in self.nodes if isinstance(n, ast.Name) and n.id == name]
        return not all(isinstance(n.ctx, ast.Load) or self._is_of_comprehension(n) for n in named)

    def _is_of_comprehension(self, target: ast.AST) -> bool:
        above = self.parents.get(target)
        while isinstance(above, (ast.Tuple, ast.List, ast.Starred)):
            above = self.parents.get(above)
        return isinstance(above, ast.comprehension)

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef):
            made = None if node.decorator_list else ast.Lambda(node.args, ast.Constant(None))
            self.bound[node.name].append(made)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets if node.value is not None else ():
                self._bind_to(target, node.value)
        elif isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name):
                old = ast.Name(node.target.id, ast.Load())
                self._bind_to(node.target, ast.BinOp(old, node.op, node.value))
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._bind_elements(node.target, node.iter)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._bind_parts(node.optional_vars)

    def _bind_to(self, target: ast.AST, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.bound[target.id].append(value)
        else:
            self._bind_parts(target)

    def _bind_parts(self, target: ast.AST) -> None:
        for each in flat(target):
            if isinstance(each, ast.Name):
                self.bound[each.id].append(None)

    def _bind_elements(self, target: ast.AST, of: ast.expr) -> None:
        """A loop's names: elements; with ``enumerate``, their places, too."""
        if self.is_builtin(of, "enumerate") and isinstance(target, ast.Tuple):
            assert isinstance(of, ast.Call)
            if len(target.elts) == 2 and of.args:
                begin = [*of.args[1:], *(each.value for each in of.keywords), ast.Constant(0)]
                place = ast.BinOp(begin[0], ast.Add(), ast.Constant(0))  # and more, any number
                self._bind_to(target.elts[0], place)
                self._bind_elements(target.elts[1], of.args[0])
                return
        if isinstance(of, (ast.List, ast.Tuple)):
            for each in of.elts:
                self._bind_to(target, None if isinstance(each, ast.Starred) else each)
            return
        element = Element()
        element.of = of
        self._bind_to(target, element)
