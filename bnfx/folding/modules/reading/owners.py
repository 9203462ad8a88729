"""Whose attribute an expression may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from bnfx.folding.modules.reading.computed_names import ANY, REBINDING, bindings
from bnfx.folding.modules.reading.dependence import Dependence
from bnfx.folding.modules.reading.functions.naming import resolve_global
from bnfx.folding.modules.reading.reachable import Function, Reachable

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


@dataclass(frozen=True, eq=False)
class Mention:
    """An expression that may be the attribute ``name`` of some module.

    Args:
        function: where it stands.
        node: the expression.
        name: a name, or a pattern for it.
        base: whose attribute it is; ``None`` if that cannot be told.
    """

    function: Function
    node: ast.AST
    name: re.Pattern[str]
    base: ast.AST | None
    below: bool = False  # whether it may be an attribute of what is below it, too


class Owners:
    """The modules that an expression may stand for, as far as that can be told.

    Args:
        mentions: all of the model's code.
        code: what stands around them.
    """

    def __init__(self, reachable: Reachable, mentions: Sequence[Mention], code: Dependence) -> None:
        self._code = code
        self._kinds: dict[type, list[nn.Module]] = {}
        self._made = reachable.made
        self._in_held: set[nn.Module] = set()
        for module in reachable.model.modules():
            for kind in type(module).__mro__:
                self._kinds.setdefault(kind, []).append(module)
            if id(module) in reachable.held:
                self._in_held |= set(module.modules())
        self._bound = [
            (mention.name, _kind_of(mention)) for mention in mentions if self._rebinds(mention.node)
        ]

    def _binding(self, name: str) -> list[type]:
        """The classes whose attribute of that name may be bound to a module of the model."""
        return [kind for bound, kind in self._bound if bound.fullmatch(name)]

    def _rebinds(self, node: ast.AST) -> bool:
        """Whether an attribute may be bound there to a module that has a place in the model."""
        above = self._code.parents.get(node)
        if getattr(node, "attr", getattr(node, "id", "")) in ("setattr", *REBINDING):
            given = above.args if isinstance(above, ast.Call) else []
            return not given or not self._is_new(given[-1])
        if not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
            return False
        while isinstance(above, (ast.Tuple, ast.List)):
            above = self._code.parents.get(above)
        if isinstance(above, (ast.Assign, ast.AnnAssign)) and above.value is not None:
            return not self._is_new(above.value)
        return not isinstance(above, (ast.AugAssign, ast.Delete, ast.AnnAssign))

    def _is_new(self, value: ast.AST) -> bool:
        """Whether an expression is no module, or one that was made there: what a class gives, or a
        function of a Python module's.
        """
        if isinstance(value, ast.Call):
            return isinstance(self._code.resolve(value.func), (type, FunctionType))
        if isinstance(value, ast.IfExp):
            return self._is_new(value.body) and self._is_new(value.orelse)
        if isinstance(value, (ast.Tuple, ast.List)):
            return all(map(self._is_new, value.elts))
        return isinstance(value, (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.JoinedStr))

    def may_be(self, mention: Mention, owner: nn.Module) -> bool:
        """Whether a mention may be of an attribute of ``owner``."""
        if mention.base is None:
            return True
        names, node = [], mention.base
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        function = mention.function
        if isinstance(node, ast.Name) and node.id == function.of_class:
            # What a class holds may be a module, which is no attribute of a class.
            return bool(names) or _is_assigned(function, node.id)
        if not isinstance(node, ast.Name) or node.id != function.owner or function.kind is None:
            return not _is_imported(mention)
        if _is_assigned(function, node.id):
            return True
        found: list[nn.Module] = list(self._kinds.get(function.kind, ()))
        if not issubclass(function.kind, nn.Module) and (names or not found):
            return bool(names)  # what such an object holds itself is refused for being held
        if names and function.kind in self._made:
            return True  # of another object than those that are there
        for name in reversed(names):
            if any(isinstance(module, (*_CONTAINERS, *self._binding(name))) for module in found):
                return True  # it may be another module by then
            held = [_attribute(module, name) for module in found]
            if any(not isinstance(value, nn.Module) for value in held):
                return owner in self._in_held or any(value is None for value in held)
            found = [value for value in held if isinstance(value, nn.Module)]
        if mention.below:
            return any(owner in set(module.modules()) for module in found)
        return owner in found


def _kind_of(mention: Mention) -> type:
    """Whose attribute it is."""
    by_self = isinstance(mention.base, ast.Name) and mention.base.id == mention.function.owner
    return (by_self and mention.function.kind) or nn.Module


def _attribute(module: nn.Module, name: str) -> Any:
    tables: tuple[Mapping[str, Any], ...] = (module._modules, module._parameters, module._buffers)
    return next((t[name] for t in (*tables, vars(module)) if name in t), None)


def _is_assigned(function: Function, name: str) -> bool:
    """Whether an argument is bound again, or the name is that of another function's argument."""
    return list(bindings(function.node)).count(name) > 1


def _is_imported(mention: Mention) -> bool:
    """Whether it is an attribute of a Python module or class, as in ``nn.functional.conv``.

    ``nn.Module.children(layer)`` looks at what it is given.
    """
    function, base = mention.function, mention.base
    root = base
    while isinstance(root, ast.Attribute):
        root = root.value
    if base is None or (isinstance(root, ast.Name) and root.id in bindings(function.node)):
        return False
    value = resolve_global(function.function, base)
    return isinstance(value, ModuleType) or (isinstance(value, type) and mention.name is not ANY)
