"""Where code names a module of the model, or may compute its name, and what it does with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bnfx.folding.modules.computed_names import ANY, bound_names, exactly, is_of, pattern
from bnfx.folding.modules.dependence import is_identity
from bnfx.folding.modules.reachable import Function, Reachable, resolve_global
from bnfx.folding.modules.uses import HARMLESS_CALLS
from bnfx.folding.modules.walks import BY_NAME, WEIGHTS, Walks

_WALKS = frozenset(
    [
        "modules",
        "named_modules",
        "children",
        "named_children",
        "_modules",
        "__dict__",
    ]
)
# Those that give children only: whatever is below is named anew.
_DIRECT = frozenset(["children", "named_children", "_modules", "getattr", "setattr", "delattr"])
_COMPUTING = frozenset(
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
    ]
)


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


class Mentions(Walks):
    """All mentions in the code that a model can reach."""

    def __init__(self, reachable: Reachable) -> None:
        self.model = reachable.model
        super().__init__()
        self._all: list[Mention] = []
        self._kinds: dict[type, list[nn.Module]] = {}
        for module in self.model.modules():
            for kind in type(module).__mro__:
                self._kinds.setdefault(kind, []).append(module)
        for function in reachable.functions:
            self.functions[function.node] = function
            for node in ast.walk(function.node):
                for child in ast.iter_child_nodes(node):
                    self.parents[child] = node
        for function in reachable.functions:
            self._read(function)

    def _read(self, function: Function) -> None:
        making = function.kind is not None and function.node.__dict__.get("name") == "__init__"
        for node in ast.walk(function.node):
            for mention in self._mentions(function, node):
                if not making or not is_of(mention.base, function.owner):
                    self._all.append(mention)  # else of an object that is made just now

    def _mentions(self, function: Function, node: ast.AST) -> Iterator[Mention]:
        if isinstance(node, ast.Attribute):
            yield Mention(function, node, exactly(node.attr), node.value)
            if node.attr in _WALKS and not self.is_harmless_walk(node):
                below = node.attr not in _DIRECT
                yield Mention(function, self.parents[node], ANY, node.value, below)
            if node.attr == "apply" and not self.is_harmless_apply(function.name, node):
                yield Mention(function, node, ANY, node.value, True)
            if node.attr == "train" and not self.is_mode(node):
                yield Mention(function, node, ANY, node.value, True)
            if node.attr in WEIGHTS and not self.is_harmless_weights(node):
                yield Mention(function, node, ANY, node.value, True)
            if node.attr in BY_NAME and not self.is_named_elsewhere(node):
                yield Mention(function, node, ANY, node.value, True)
            if node.attr in _COMPUTING - {"compile", "eval"}:
                yield Mention(function, node, ANY, None)
        elif isinstance(node, ast.Name) and node.id in _COMPUTING | {
            "getattr",
            "setattr",
            "delattr",
        }:
            call = self.parents.get(node)
            if node.id in _COMPUTING or not isinstance(call, ast.Call) or call.func is not node:
                yield Mention(function, node, ANY, None)
            elif len(call.args) > 1:
                name = pattern(call.args[1], self.scope(call))
                yield Mention(function, call, name, call.args[0])
            else:
                yield Mention(function, call, ANY, None)
        elif isinstance(node, ast.Name) and node.id == function.owner and node.id:
            around = self.parents[node]
            stays = _stays(node, around) and not self.is_handed_on(around)
            if not stays and not self._is_only_named(around, node, frozenset()):
                # ``for layer in self``, ``self[0]``; a function may go deeper
                below = not isinstance(around, (ast.For, ast.comprehension, ast.Subscript))
                yield Mention(function, node, ANY, node, below)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parent = self.parents.get(node)
            if isinstance(parent, ast.Call) and getattr(parent.func, "id", "") in (
                "getattr",
                "hasattr",
            ):
                return
            if isinstance(parent, ast.Expr) or not re.fullmatch(r"[\w.]+", node.value):
                return
            for part in node.value.split("."):
                if not part.isdigit():
                    yield Mention(function, node, exactly(part), None)

    def resolve(self, node: ast.AST) -> Any:
        """What a name of the Python module stands for."""
        above: ast.AST | None = node
        while above is not None and above not in self.functions:
            above = self.parents.get(above)
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if above is None or not isinstance(root, ast.Name) or root.id in bound_names(above):
            return None
        function = self.functions[above].function
        if root.id in function.__code__.co_freevars:
            return None
        return resolve_global(function, node)

    def _is_only_named(self, call: ast.AST, given: ast.AST, seen: frozenset[Any]) -> bool:
        """Whether a function does with an argument what is a mention, or harmless, and no more."""
        if not isinstance(call, ast.Call) or given not in call.args:
            return False
        callee, place = self.resolve(call.func), call.args.index(given)
        nodes = [n for n, f in self.functions.items() if f.function is callee]
        if callee in seen or len(nodes) != 1 or place >= callee.__code__.co_argcount:
            return False
        name = callee.__code__.co_varnames[place]
        for use in (n for n in ast.walk(nodes[0]) if isinstance(n, ast.Name) and n.id == name):
            parent = self.parents.get(use)
            named = isinstance(parent, ast.Attribute) or self.is_harmless(use)
            if not isinstance(use.ctx, ast.Load) or not (
                named or (parent and self._is_only_named(parent, use, seen | {callee}))
            ):
                return False
        return True

    def runs_own_code(self, method: str) -> bool:
        """Whether a method of that name is torch's, or of a class with weights of its own."""
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.Sequential)
        if any(hasattr(kind, method) for kind in (*kinds, nn.ModuleList, nn.ModuleDict)):
            return True
        named = (m for m in self.model.modules() if hasattr(type(m), method))
        return any(module._parameters or module._buffers for module in named)

    def of(self, owner: nn.Module, name: str) -> list[Mention]:
        """Those that may be the attribute ``name`` of ``owner``."""
        return [m for m in self._all if m.name.fullmatch(name) and self._may_be(m, owner)]

    def _may_be(self, mention: Mention, owner: nn.Module) -> bool:
        if mention.base is None:
            return True
        names, node = [], mention.base
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        function = mention.function
        if isinstance(node, ast.Name) and node.id == function.of_class:
            return _is_assigned(function, node.id)  # else a class, not an instance of it
        if not isinstance(node, ast.Name) or node.id != function.owner or function.kind is None:
            return not _is_imported(function, node)
        if _is_assigned(function, node.id):
            return True
        found: list[nn.Module] = list(self._kinds.get(function.kind, ()))
        if not issubclass(function.kind, nn.Module) and (names or not found):
            return bool(names)  # what such an object holds itself is refused for being held
        for name in reversed(names):
            held = [_attribute(module, name) for module in found]
            if any(not isinstance(value, nn.Module) for value in held):
                return any(value is None for value in held)
            found = [value for value in held if isinstance(value, nn.Module)]
        if mention.below:
            return any(owner in set(module.modules()) for module in found)
        return owner in found


def _stays(node: ast.Name, parent: ast.AST) -> bool:
    """Whether ``self`` is named only to ask for an attribute, to be compared, or to be returned."""
    if isinstance(parent, ast.Attribute):
        return True
    if isinstance(parent, ast.Call):
        name = getattr(parent.func, "id", "")
        return name in ("super", "getattr", "setattr", "delattr", *HARMLESS_CALLS)
    if isinstance(parent, ast.Compare):
        return is_identity(parent)
    return isinstance(parent, (ast.Return, ast.Expr, ast.FormattedValue))


def _attribute(module: nn.Module, name: str) -> Any:
    tables: tuple[Mapping[str, Any], ...] = (module._modules, module._parameters, module._buffers)
    return next((t[name] for t in (*tables, vars(module)) if name in t), None)


def _is_assigned(function: Function, name: str) -> bool:
    names = (n for n in ast.walk(function.node) if isinstance(n, ast.Name) and n.id == name)
    return any(not isinstance(n.ctx, ast.Load) for n in names)


def _is_imported(function: Function, node: ast.AST) -> bool:
    """Whether a name is that of a Python module or class, as ``nn`` in ``nn.functional.conv``."""
    if not isinstance(node, ast.Name) or node.id in function.function.__code__.co_varnames:
        return False
    value = function.function.__globals__.get(node.id)
    return value is not None and (isinstance(value, type) or type(value).__name__ == "module")
