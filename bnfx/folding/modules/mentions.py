"""Where code names a module of the model, or may compute its name, and what it does with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bnfx.folding.modules.reachable import Function, Reachable

_WALKS = frozenset(
    [
        "modules",
        "named_modules",
        "children",
        "named_children",
        "get_submodule",
        "_modules",
        "__dict__",
        "apply",
    ]
)
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
    ]
)
_HARMLESS_CALLS = frozenset(
    ["isinstance", "hasattr", "type", "id", "len", "print", "repr", "str", "issubclass"]
)
_HARMLESS_METHODS = frozenset(["train", "eval", "requires_grad_", "extra_repr"])
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


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


class Mentions:
    """All mentions in the code that a model can reach."""

    def __init__(self, reachable: Reachable) -> None:
        self.model = reachable.model
        self.parents: dict[ast.AST, ast.AST] = {}
        self._all: list[Mention] = []
        self._kinds: dict[type, list[nn.Module]] = {}
        for module in self.model.modules():
            for kind in type(module).__mro__:
                self._kinds.setdefault(kind, []).append(module)
        for function in reachable.functions:
            self._read(function)

    def _read(self, function: Function) -> None:
        setup = function.kind is not None and function.node.__dict__.get("name") == "__init__"
        for node in ast.walk(function.node):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        for node in ast.walk(function.node):
            if setup and self.scope(node) in (function.node, None):
                continue  # it has run
            self._all += self._mentions(function, node)

    def _mentions(self, function: Function, node: ast.AST) -> Iterator[Mention]:
        if isinstance(node, ast.Attribute):
            yield Mention(function, node, _exactly(node.attr), node.value)
            if node.attr in _WALKS and not self._is_harmless_walk(node):
                constant = _constant_argument(self.parents.get(node), 0)
                if node.attr == "get_submodule" and constant is not None:
                    return  # the name in it is a mention
                yield Mention(function, self.parents[node], _ANY, node.value)
            if node.attr in _COMPUTING - {"compile", "eval"}:
                yield Mention(function, node, _ANY, None)
        elif isinstance(node, ast.Name) and node.id in _COMPUTING | {
            "getattr",
            "setattr",
            "delattr",
        }:
            call = self.parents.get(node)
            if node.id in _COMPUTING or not isinstance(call, ast.Call) or call.func is not node:
                yield Mention(function, node, _ANY, None)
            elif len(call.args) > 1:
                yield Mention(function, call, _pattern(call.args[1]), call.args[0])
            else:
                yield Mention(function, call, _ANY, None)
        elif isinstance(node, (ast.For, ast.comprehension, ast.Starred, ast.Subscript, ast.Call)):
            for each in _looked_into(node):
                if isinstance(each, ast.Name) and each.id == function.owner and function.owner:
                    yield Mention(function, each, _ANY, each)  # ``for layer in self``, ``self[0]``
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
                    yield Mention(function, node, _exactly(part), None)

    def scope(self, node: ast.AST) -> ast.AST | None:
        """The function that an expression stands in."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, _SCOPES):
            above = self.parents.get(above)
        return above

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
        if not issubclass(function.kind, nn.Module):
            return True
        for name in reversed(names):
            held = [_attribute(module, name) for module in found]
            if any(not isinstance(value, nn.Module) for value in held):
                return any(value is None for value in held)
            found = [value for value in held if isinstance(value, nn.Module)]
        if mention.name is _ANY and mention.node is not mention.base:
            return any(owner in set(module.modules()) for module in found)
        return owner in found

    def is_call(self, node: ast.AST) -> bool:
        """Whether the expression is only called."""
        parent = self.parents.get(node)
        return isinstance(parent, ast.Call) and parent.func is node

    def is_harmless(self, node: ast.AST) -> bool:
        """Whether what the code does with a module neither runs nor keeps nor changes it."""
        parent = self.parents.get(node)
        if isinstance(parent, ast.Compare):
            return all(isinstance(op, (ast.Is, ast.IsNot)) for op in parent.ops)
        if isinstance(parent, ast.Call) and parent.func is not node:
            name = getattr(parent.func, "id", "")
            return name in _HARMLESS_CALLS or _is_initialiser(parent)
        if isinstance(parent, ast.Attribute) and parent.value is node:
            above = self.parents.get(parent)
            if isinstance(above, ast.Call) and above.func is parent:
                return parent.attr in _HARMLESS_METHODS
            if isinstance(above, ast.Attribute):
                return False
            return (isinstance(above, ast.Call) and _is_initialiser(above)) or (
                isinstance(above, ast.Compare)
                and all(isinstance(op, (ast.Is, ast.IsNot)) for op in above.ops)
            )
        if isinstance(parent, ast.Call) and getattr(parent.func, "id", "") == "getattr":
            return self.is_harmless(parent)
        return isinstance(parent, ast.Expr)

    def runs_whole(self, node: ast.AST, depth: int) -> bool:
        """Whether an expression is only called, ``depth`` containers down."""
        if self.is_harmless(node):
            return True
        parent = self.parents.get(node)
        if depth == 0:
            if self.is_call(node) or _runs_it(parent, node):
                return True
            return self._names_run_whole(parent, node, 0)
        if isinstance(parent, ast.Subscript) and parent.value is node:
            return not isinstance(parent.slice, ast.Slice) and self.runs_whole(parent, depth - 1)
        if isinstance(parent, ast.Attribute) and parent.attr in ("items", "values"):
            call = self.parents.get(parent)
            return isinstance(call, ast.Call) and self.runs_whole(call, depth)
        if isinstance(parent, ast.Call) and getattr(parent.func, "id", "") in (
            "enumerate",
            "zip",
            "reversed",
        ):
            return self.runs_whole(parent, depth)
        if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node:
            return self._targets_run_whole(parent.target, depth - 1)
        return self._names_run_whole(parent, node, depth)

    def _names_run_whole(self, parent: ast.AST | None, node: ast.AST, depth: int) -> bool:
        if isinstance(parent, ast.Assign) and parent.value is node:
            return all(self._targets_run_whole(target, depth) for target in parent.targets)
        return False

    def _targets_run_whole(self, target: ast.AST, depth: int) -> bool:
        names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
        if any(not isinstance(n, (ast.Name, ast.Tuple, ast.Store)) for n in ast.walk(target)):
            return False
        scope = self.scope(target)
        assert scope is not None
        uses = [
            n
            for n in ast.walk(scope)
            if isinstance(n, ast.Name) and n.id in names and isinstance(n.ctx, ast.Load)
        ]
        return all(self._is_use(use, depth) for use in uses)

    def _is_use(self, use: ast.Name, depth: int) -> bool:
        parent = self.parents.get(use)
        if isinstance(parent, ast.Assign):
            return False
        return (
            self.runs_whole(use, depth)
            or isinstance(parent, (ast.Compare, ast.FormattedValue))
            or (isinstance(parent, ast.Subscript) and parent.slice is use)
        )

    def _is_harmless_walk(self, node: ast.Attribute) -> bool:
        """``for m in self.modules()``, whose ``m`` is neither run nor kept."""
        call = self.parents.get(node)
        above = self.parents.get(call) if call is not None else None
        if isinstance(above, ast.Call) and getattr(above.func, "id", "") == "enumerate":
            call, above = above, self.parents.get(above)
        if not isinstance(call, ast.Call) or not isinstance(above, (ast.For, ast.comprehension)):
            return False
        names = {n.id for n in ast.walk(above.target) if isinstance(n, ast.Name)}
        scope = self.scope(node)
        uses = (
            [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id in names]
            if scope
            else []
        )
        return all(isinstance(use.ctx, ast.Store) or self.is_harmless(use) for use in uses)


_ANY = re.compile(r".*", re.DOTALL)


def _runs_it(call: ast.AST | None, node: ast.AST) -> bool:
    """``torch.vmap(self.net)`` and ``checkpoint(self.net, x)`` run a module whole."""
    if not isinstance(call, ast.Call) or not call.args or call.args[0] is not node:
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return name in ("vmap", "checkpoint")


def _exactly(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name))


def _pattern(node: ast.AST) -> re.Pattern[str]:
    """What a computed name can be."""
    if isinstance(node, ast.Constant):
        return _exactly(str(node.value))
    if isinstance(node, ast.JoinedStr):
        parts = (re.escape(v.value) if isinstance(v, ast.Constant) else ".*" for v in node.values)
        return re.compile("".join(parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return re.compile(_pattern(node.left).pattern + _pattern(node.right).pattern)
    return (
        _ANY
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "str"
        else re.compile(".*")
    )


def _constant_argument(call: ast.AST | None, place: int) -> Any:
    if isinstance(call, ast.Call) and len(call.args) > place:
        argument = call.args[place]
        return argument.value if isinstance(argument, ast.Constant) else None
    return None


def _looked_into(node: ast.AST) -> list[ast.AST]:
    """What a statement iterates, indexes or hands to a builtin that does."""
    if isinstance(node, (ast.For, ast.comprehension)):
        return [node.iter]
    if isinstance(node, (ast.Starred, ast.Subscript)):
        return [node.value]
    assert isinstance(node, ast.Call)
    if getattr(node.func, "id", "") in ("super", *_HARMLESS_CALLS):
        return []
    return list(node.args)


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


def _is_initialiser(call: ast.Call) -> bool:
    """``nn.init.zeros_(...)``: a fold takes the weights as they are; who sets them anew has others."""
    function = call.func
    return isinstance(function, ast.Attribute) and (
        getattr(function.value, "attr", getattr(function.value, "id", "")) == "init"
    )
