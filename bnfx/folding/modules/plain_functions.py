"""Whether one function is plain: see :mod:`bnfx.folding.modules.plain_code`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from bnfx.folding.modules.reading.dependence import parents_of
from bnfx.folding.modules.reading.functions.library import is_known

_STATEMENTS: tuple[type[ast.AST], ...] = (
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Expr,
    ast.Return,
    ast.Pass,
    ast.If,
)
_STATEMENTS += (ast.For, ast.Raise, ast.Assert, ast.Break, ast.Continue)
_EXPRESSIONS: tuple[type[ast.AST], ...] = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript)
_EXPRESSIONS += (ast.Call, ast.Starred)
_EXPRESSIONS += (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Slice)
_EXPRESSIONS += (ast.Tuple, ast.List, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.JoinedStr)
_EXPRESSIONS += (ast.FormattedValue, ast.comprehension, ast.keyword, ast.expr_context)
_EXPRESSIONS += (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
# They tell of the ops that made a tensor, or of who looks at them.
_TELLING = frozenset(["grad_fn", "register_hook", "requires_grad", "grad", "backward", "data_ptr"])
_BUILTINS = frozenset(
    [
        *("len", "range", "int", "float", "bool", "str", "min", "max", "sum", "abs", "tuple"),
        *("list", "dict", "zip", "enumerate", "isinstance", "round", "any", "all", "reversed"),
        *("ValueError", "RuntimeError", "NotImplementedError", "TypeError", "AssertionError"),
    ]
)
_ROOMS = frozenset(
    [
        *("", "torch", "torch.functional", "torch.nn.functional", "torch.nn.init", "torch._C._nn"),
        *("torch._jit_internal", "torch.jit._trace", "torch._tensor", "torch._C._special"),
        *("math", "warnings", "_warnings", "builtins", "torch.utils.checkpoint"),
    ]
)
INTERNAL = frozenset(vars(nn.Module())) - {"training"}


def is_data(value: Any) -> bool:
    """Whether it holds numbers, text and classes of torch's, and nothing else."""
    if isinstance(value, (tuple, list, frozenset, set)):
        return all(map(is_data, value))
    if isinstance(value, dict):
        return all(map(is_data, value.values()))
    plain = (int, float, str, bytes, complex, type(None), torch.dtype, torch.device)
    return isinstance(value, plain) or (isinstance(value, type) and is_known(value))


class PlainReader:
    """Reads one function.

    Args:
        names: attributes that are modules which may only be called.
        kind: whose method it is; ``None`` for a function.
        lists: those of them that a loop may go through.
    """

    def __init__(
        self, function: FunctionType, names: set[str], kind: type | None, lists: set[str]
    ) -> None:
        self.function, self.names, self.kind, self.lists = function, names, kind, lists
        self.parents: dict[ast.AST, ast.AST] = {}
        self.owner = ""

    def read(self, seen: frozenset[FunctionType] = frozenset()) -> str | None:
        """What of it is not plain; ``None`` if all is."""
        function = self.function
        told = f"{function.__qualname__} is not plain"
        if function in seen:
            return None
        self.seen = seen | {function}
        try:
            text = textwrap.dedent(inspect.getsource(function))
            (tree,) = ast.parse(text).body
        except (OSError, SyntaxError, TypeError, ValueError):
            return f"{told}: its source cannot be read"
        if not isinstance(tree, ast.FunctionDef) or {*function.__code__.co_freevars} - {
            "__class__"
        }:
            return f"{told}: it is no function of a class or a file"
        if tree.name != function.__code__.co_name or any(map(self._wraps, tree.decorator_list)):
            return f"{told}: it is decorated"
        arguments = tree.args.posonlyargs + tree.args.args
        self.owner = arguments[0].arg if self.kind is not None and arguments else ""
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        if not all(map(is_data, defaults)):
            return f"{told}: an argument's default is an object"
        self.parents = parents_of(tree)
        self.locals = {each.arg for each in ast.walk(tree.args) if isinstance(each, ast.arg)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.add(node.id)
        for node in self._nodes(tree.body):
            if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
                return f"{told}, line {node.lineno}: {type(node).__name__}"
            if not self._is_plain(node):
                return f"{told}, line {getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]}"
        return None

    def _wraps(self, decorator: ast.expr) -> bool:
        """Whether it does more than tell Python or TorchScript something."""
        return not ast.unparse(decorator).startswith(("torch.jit.", "staticmethod"))

    def _nodes(self, body: list[ast.stmt]) -> Iterator[Any]:
        """All but annotations."""
        stack: list[ast.AST] = list(body)
        while stack:
            node = stack.pop()
            yield node
            for name, value in ast.iter_fields(node):
                if name != "annotation":
                    values = value if isinstance(value, list) else [value]
                    stack.extend(each for each in values if isinstance(each, ast.AST))

    def _is_plain(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("__") or node.attr in _TELLING:
                return False
            if isinstance(node.value, ast.Name) and node.value.id == self.owner:
                return self._is_plain_attribute(node)
            return True
        if isinstance(node, ast.Name):
            return self._is_super(node) if node.id == "super" else self._is_plain_name(node)
        return True

    def _is_super(self, node: ast.Name) -> bool:
        """Whether it is ``super().forward(...)``, of a class whose code is read as well."""
        call = self.parents.get(node)
        method = self.parents.get(call) if isinstance(call, ast.Call) else None
        if self.kind is None or not isinstance(call, ast.Call) or call.args or call.keywords:
            return False
        above = self.parents.get(method) if isinstance(method, ast.Attribute) else None
        if not isinstance(method, ast.Attribute) or not isinstance(above, ast.Call):
            return False
        read = [kind for kind in self.kind.__mro__[1:] if not is_known(kind)]
        return above.func is method and any(method.attr in vars(kind) for kind in read)

    def _is_plain_attribute(self, node: ast.Attribute) -> bool:
        """Of ``self``."""
        above = self.parents.get(node)
        if node.attr in INTERNAL:
            return False
        if node.attr not in self.names:
            known = inspect.getattr_static(self.kind, node.attr, None)
            known = known.__func__ if isinstance(known, staticmethod) else known
            if isinstance(known, FunctionType):  # torch's own may get at anything
                home = next(k for k in self.kind.__mro__ if node.attr in vars(k))  # type: ignore[union-attr]
                return isinstance(above, ast.Call) and above.func is node and not is_known(home)
            return known is None or is_data(known)
        if not isinstance(node.ctx, ast.Load):
            return False
        if isinstance(above, ast.Call):
            return above.func is node
        if isinstance(above, ast.Compare):
            return all(isinstance(op, (ast.Is, ast.IsNot)) for op in above.ops)
        if isinstance(above, (ast.For, ast.comprehension)) and above.iter is node:
            target = above.target.id if isinstance(above.target, ast.Name) else ""
            return node.attr in self.lists and bool(target) and self._is_only_called(target)
        return False

    def _is_only_called(self, name: str) -> bool:
        uses = [n for n in self.parents if isinstance(n, ast.Name) and n.id == name]
        loads = [n for n in uses if isinstance(n.ctx, ast.Load)]
        calls = [self.parents[n] for n in loads]
        return len(uses) == len(loads) + 1 and all(
            isinstance(call, ast.Call) and call.func is use
            for call, use in zip(calls, loads, strict=True)
        )

    def _is_plain_name(self, node: ast.Name) -> bool:
        if node.id == self.owner:
            above = self.parents.get(node)
            return isinstance(above, ast.Attribute) and isinstance(node.ctx, ast.Load)
        if node.id in self.locals:
            return True
        above, path = self.parents.get(node), [node.id]
        while isinstance(above, ast.Attribute):
            path.append(above.attr)
            above = self.parents.get(above)
        value = self.function.__globals__.get(node.id)
        if node.id not in self.function.__globals__:
            return node.id in _BUILTINS
        for name in path[1:]:
            if not isinstance(value, (ModuleType, type)):
                break
            value = getattr(value, name, None)
        return self._is_plain_global(value)

    def _is_plain_global(self, value: Any) -> bool:
        if isinstance(value, type):
            return issubclass(value, (nn.Module, tuple)) or is_known(value) or is_data(value)
        home = str(getattr(value, "__module__", "") or "")
        if isinstance(value, FunctionType) and home.partition(".")[0] != "torch":
            if value.__name__ == "_log_api_usage_once" and home == "torchvision.utils":
                return True
            return home in _ROOMS or PlainReader(value, set(), None, set()).read(self.seen) is None
        return home in _ROOMS or is_data(value) or isinstance(value, ModuleType)
