"""Whether one function is plain: its only ways to other objects are names, attributes and calls."""

from __future__ import annotations

import ast
import builtins
import inspect
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from bnfx.folding.modules.plain.data import INTERNAL, is_constant, is_data, is_record
from bnfx.folding.modules.plain.library import (
    BUILTINS,
    LAYOUT,
    SWITCHES,
    TELLING,
    UNREAD,
    is_known,
    is_op,
    is_plain_attribute,
)
from bnfx.folding.modules.plain.loops import goes_through, is_only_run
from bnfx.folding.modules.plain.source import Sources
from bnfx.folding.modules.plain.syntax import NODES, is_call_of_super, nodes_of, wraps

_UNKNOWN = object()


class PlainFunction:
    """A function, read. ``uses`` are the places where it names an attribute of its object.

    Args:
        sources: where sources are read.
        of: whose method it is: the class of the object; ``None`` for a function.
        kind: the class that defines it.
    """

    def __init__(
        self,
        function: FunctionType,
        sources: Sources,
        of: type | None = None,
        kind: type | None = None,
    ) -> None:
        self.function, self.of, self.kind = function, of, kind
        self.parents: dict[ast.AST, ast.AST] = {}
        self.uses: dict[str, list[ast.Attribute]] = {}
        self.sets: set[str] = set()  # attributes of its object
        self.loops: list[ast.AST] = []  # that call each module of its object
        self.calls: set[FunctionType] = set()  # that are no methods: they have to be plain, too
        self.makes: set[type] = set()  # modules of these classes, which have to be, too
        self.owner = ""
        self.tree = ast.Module([], [])
        why = self._read(sources)
        self.strange = None if why is None else f"{function.__qualname__} is not plain{why}"

    def _read(self, sources: Sources) -> str | None:
        """What of it is not plain; ``None`` if all is."""
        function = self.function
        tree = sources.tree(function)
        if isinstance(tree, str):
            return f": {tree}"
        if {*function.__code__.co_freevars} - {"__class__"}:
            return ": it is no function of a class or a file"
        if any(map(wraps, tree.decorator_list)):
            return ": it is decorated"
        arguments = tree.args.posonlyargs + tree.args.args
        if self.of is not None and not arguments:
            return ": its object has no name"
        self.owner = arguments[0].arg if self.of is not None else ""
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        if not all(map(is_data, defaults)):
            return ": an argument's default is an object"
        self.tree = ast.Module([tree], [])
        self.parents = {c: node for node in ast.walk(tree) for c in ast.iter_child_nodes(node)}
        given = [*arguments, *tree.args.kwonlyargs, tree.args.vararg, tree.args.kwarg]
        self.locals = {each.arg for each in given if each is not None}
        for node in nodes_of(tree.body):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                if self._is_of_comprehension(node) and (
                    hasattr(builtins, node.id) or node.id in function.__globals__
                ):
                    return f": {node.id} is another name outside of a comprehension"
                self.locals.add(node.id)
        for node in nodes_of(tree.body):
            if not isinstance(node, NODES):
                return f", line {getattr(node, 'lineno', 0)}: {type(node).__name__}"
            if not self._is_plain(node):
                return f", line {getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]}"
        return None

    def _is_plain(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            if is_call_of_super(node.value):
                return True  # asked about at ``super``
            if node.attr.startswith(("__", "register")) or node.attr in TELLING:
                return False
            if isinstance(node.value, ast.Name) and node.value.id == self.owner:
                return self._is_plain_attribute(node)
            if node.attr in LAYOUT:
                return False
            if not isinstance(node.ctx, ast.Load):
                return False
            return self.value_of(node) is not None or is_plain_attribute(node.attr)
        if isinstance(node, ast.Name):
            return self._is_super(node) if node.id == "super" else self._is_plain_name(node)
        if isinstance(node, ast.GeneratorExp):  # which runs when somebody asks it
            call = self.parents.get(node)
            return isinstance(call, ast.Call) and self._consumes(call)
        if isinstance(node, ast.JoinedStr):  # the text of a tensor tells of its op
            return self._is_message(node)
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Mod):
            return any(map(_is_number, ast.iter_child_nodes(node))) or self._is_message(node)
        if isinstance(node, ast.withitem):
            return isinstance(node.context_expr, ast.Call) and any(
                self.value_of(node.context_expr.func) is each for each in SWITCHES
            )
        return True

    def _is_super(self, node: ast.Name) -> bool:
        """Whether it is ``super().forward(...)``, of a class whose code is read as well."""
        call = self.parents[node]
        if not isinstance(call, ast.Call) or call.args or call.keywords:
            return False
        method = self.parents[call]
        above = self.parents[method]
        if not isinstance(method, ast.Attribute) or getattr(above, "func", None) is not method:
            return False
        if node.id in self.locals | self.function.__globals__.keys():
            return False
        if self.kind not in [cell.cell_contents for cell in self.function.__closure__ or ()]:
            return False  # it was written in another class
        assert self.of is not None
        assert self.kind is not None
        order = self.of.__mro__
        after = order[order.index(self.kind) + 1 :]
        home = next((each for each in after if method.attr in vars(each)), None)
        if method.attr == "__init__" == self.function.__name__ == self._name_in_class():
            return True  # of a class that is read as well, or of a layer
        return home is not None and not is_known(home) and method.attr not in UNREAD

    def _name_in_class(self) -> str | None:
        """What it is called by; a class may have a function under another name, too."""
        own = vars(self.kind).items() if self.kind is not None else ()
        names = [name for name, value in own if value is self.function]
        return names[0] if len(names) == 1 else None

    def _is_plain_attribute(self, node: ast.Attribute) -> bool:
        """Of the object that it is a method of."""
        if node.attr in INTERNAL or node.attr in UNREAD:
            return False
        known = inspect.getattr_static(self.of, node.attr, None)
        known = known.__func__ if type(known) is staticmethod else known
        if type(known) is FunctionType:  # torch's own may get at anything
            call = self.parents.get(node)
            home = next(k for k in self.of.__mro__ if node.attr in vars(k))  # type: ignore[union-attr]
            if not isinstance(call, ast.Call) or call.func is not node:
                return False
            if home is nn.ModuleDict and goes_through(self, node):
                self.loops.append(node)
                return True
            return not is_known(home)
        self.uses.setdefault(node.attr, []).append(node)
        if not isinstance(node.ctx, ast.Load):
            self.sets.add(node.attr)
            if hasattr(nn.Module, node.attr):  # some of these say what runs
                return False
        return is_data(known)

    def _is_of_comprehension(self, node: ast.AST) -> bool:
        above = self.parents.get(node)
        while isinstance(above, (ast.expr, ast.comprehension)):
            if isinstance(above, ast.comprehension):
                return True
            above = self.parents.get(above)
        return False

    def _consumes(self, call: ast.Call) -> bool:
        names = ("sum", "any", "all", "min", "max", "tuple", "list")
        return self.is_builtin(call.func) and getattr(call.func, "id", "") in names

    def _is_message(self, node: ast.AST) -> bool:
        """Whether it is only said when the call ends there."""
        above = self.parents[node]
        while not isinstance(above, ast.stmt):
            node, above = above, self.parents[above]
        return isinstance(above, ast.Raise) or (isinstance(above, ast.Assert) and above.msg is node)

    def _is_plain_name(self, node: ast.Name) -> bool:
        if node.id.startswith("__"):  # which Python takes for another name in a class
            return False
        above: ast.AST | None = self.parents.get(node)
        if node.id == self.owner:
            if isinstance(above, (ast.For, ast.comprehension)) and above.iter is node:
                self.loops.append(node)
                listed = issubclass(self.of or object, (nn.Sequential, nn.ModuleList))
                target = above.target
                return listed and isinstance(target, ast.Name) and is_only_run(self, target.id)
            return isinstance(above, ast.Attribute)
        if node.id in self.locals:
            return True
        if node.id not in self.function.__globals__:
            return self.is_builtin(node)
        whole: ast.AST = node
        while isinstance(around := self.parents.get(whole), ast.Attribute):
            whole = around
        return self._is_plain_global(self.value_of(whole))

    def is_builtin(self, node: ast.AST) -> bool:
        """Whether it is one of Python's own, by its name."""
        if not isinstance(node, ast.Name) or node.id in self.locals:
            return False
        known, given = BUILTINS.get(node.id, _UNKNOWN), getattr(self.function, "__builtins__", {})
        return given.get(node.id) is known and node.id not in self.function.__globals__

    def value_of(self, node: ast.AST) -> Any:
        """What ``a.b.c`` is, as far as Python modules and classes go; ``None`` for a local."""
        if isinstance(node, ast.Attribute):
            value = self.value_of(node.value)
            if type(value) is ModuleType:
                return vars(value).get(node.attr, _UNKNOWN)
            if type(value) is type:  # what computes an attribute is found, and not what it gives
                found = inspect.getattr_static(value, node.attr, _UNKNOWN)
                return found.__func__ if type(found) is staticmethod else found
            return None
        if not isinstance(node, ast.Name) or node.id in self.locals:
            return None
        return self.function.__globals__.get(node.id, _UNKNOWN)

    def _is_plain_global(self, value: Any) -> bool:
        if isinstance(value, type) and issubclass(value, nn.Module) and not is_known(value):
            self.makes.add(value)
            return True
        if is_op(value) or is_constant(value) or any(value is each for each in SWITCHES):
            return True
        if type(value) is FunctionType:
            self.calls.add(value)
            return True
        return is_record(value)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
