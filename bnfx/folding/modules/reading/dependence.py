"""Whether answers depend on what a fold changes: a layer's class, its text, its having a bias."""

from __future__ import annotations

import ast
import re
from types import FunctionType
from typing import Any

import torch

from bnfx.folding.capturing.asking.shown_text import SAID, called_name

# Methods that give back the module that they belong to.
SELVES = frozenset(
    [
        *("train", "eval", "requires_grad_", "apply", "to", "type", "float", "double", "half"),
        *("bfloat16", "cpu", "cuda", "xpu", "to_empty", "share_memory"),
    ]
)
HARMLESS_METHODS = frozenset(["train", "eval", "requires_grad_"])
# What sets weights up is trusted by its name: it is meant for weights that were not learned yet.
_SET_UP = re.compile(
    r"_*(\w+_)?(re)?init(iali[sz]e)?(_?(weights?|params?|parameters?|layers?|modules?|bns?|norms?"
    r"|convs?|linears?|fc))?(_\w*(kaiming|xavier|normal|uniform|he|vit|jax|moco)\w*)?_*"
    r"|_?reset_parameters|__init__"
)
# Functions that are known to run their first argument, and all of it in order.
_IN_ORDER = frozenset(
    [
        ("torch._functorch.apis", "vmap"),
        ("torch.utils.checkpoint", "checkpoint"),
        ("torch.utils.checkpoint", "checkpoint_sequential"),
        ("timm.models._manipulate", "checkpoint_seq"),
    ]
)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def parents_of(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """What each node below the top of a tree stands in."""
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def sets_weights_up(name: str) -> bool:
    """Whether a function of that name is one that initialises weights."""
    return _SET_UP.fullmatch(name.rpartition(".")[2]) is not None


def runs_in_order(function: Any) -> bool:
    """Whether a function runs a module, or a sequence of them, as a whole."""
    place = (getattr(function, "__module__", ""), getattr(function, "__name__", ""))
    return isinstance(function, FunctionType) and place in _IN_ORDER


class Dependence:
    """Expressions, and the statements that they stand in."""

    def __init__(self) -> None:
        self.parents: dict[ast.AST, ast.AST] = {}

    def resolve(self, node: ast.AST) -> Any:
        """The object that a name of a Python module stands for; ``None`` if it is not known."""
        raise NotImplementedError

    def catches(self) -> bool:
        """Whether any code of the model's goes on after an exception."""
        raise NotImplementedError

    def runs_in_calls(self, node: ast.AST) -> bool:
        """Whether a call of the model may run it."""
        raise NotImplementedError

    def goes_on(self, statement: ast.AST) -> bool:
        """Whether it may swallow an exception that is raised in it."""
        if type(statement).__name__ in ("Try", "TryStar"):
            return True
        return isinstance(statement, (ast.With, ast.AsyncWith)) and not all(
            self._lets_through(item.context_expr) for item in statement.items
        )

    def _lets_through(self, manager: ast.AST) -> bool:
        """Whether a ``with`` block lets every exception through: those of torch do."""
        kind = self.resolve(manager.func) if isinstance(manager, ast.Call) else None
        return str(getattr(kind, "__module__", "")).partition(".")[0] == "torch"

    def scope(self, node: ast.AST) -> ast.AST | None:
        """The function that an expression stands in; none in the body of a class, whose names are
        attributes.
        """
        above = self.parents.get(node)
        while above is not None and not isinstance(above, (*_SCOPES, ast.ClassDef)):
            above = self.parents.get(above)
        return None if isinstance(above, ast.ClassDef) else above

    def function_name(self, node: ast.AST) -> str:
        return str(getattr(self.scope(node), "name", ""))

    def is_statement(self, call: ast.AST) -> bool:
        """Whether nobody looks at what a call gives."""
        return isinstance(self.parents.get(call), ast.Expr)

    def decides_nothing(self, node: ast.AST) -> bool:
        """Whether no answer depends on an expression that a fold may change.

        It may be printed, asserted, or decide which weights are set up.
        """
        trusted = self.is_trusted(node)
        asked, above = node, self.parents.get(node)
        while isinstance(above, ast.expr):
            if isinstance(above, (ast.NamedExpr, ast.Yield, ast.YieldFrom, ast.Await)):
                return trusted
            node, above = above, self.parents.get(above)
        if trusted:
            return not _keeps(above)
        if isinstance(above, ast.If) and above.test is node:
            return all(map(self.sets_up, (*above.body, *above.orelse)))
        if isinstance(above, (ast.Assert, ast.Raise)) or self._asserts(node):
            return not self.catches()
        return isinstance(above, ast.Expr) and (node is asked or self.is_said(node))

    def _asserts(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and self.resolve(node.func) is torch._assert

    def is_trusted(self, node: ast.AST) -> bool:
        """Whether it stands where weights are set up, or text made; not in a call."""
        name = self.function_name(node)
        known = sets_weights_up(name) or name in ("__repr__", "extra_repr")
        return known and not self.runs_in_calls(node)

    def defines(self, name: str) -> bool:
        """Whether the model's code has a function of that name."""
        raise NotImplementedError

    def is_said(self, node: ast.AST) -> bool:
        """``print(...)``, ``log.info(...)``."""
        name = called_name(node) if isinstance(node, ast.Call) else ""
        return name in SAID and not self.defines(name)

    def is_initialiser(self, call: ast.Call) -> bool:
        """``nn.init.zeros_(...)``: a fold takes the weights as they are."""
        known = getattr(self.resolve(call.func), "__module__", "") == "torch.nn.init"
        return known and not self.runs_in_calls(call)

    def sets_up(self, statement: ast.AST) -> bool:
        """Whether a statement does nothing but set weights or modes, or stop."""
        if isinstance(statement, (ast.If, ast.For)):
            return all(map(self.sets_up, (*statement.body, *statement.orelse)))
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            mode = getattr(call.func, "attr", "") in HARMLESS_METHODS
            return mode or self.is_initialiser(call) or self.is_said(call)
        if isinstance(statement, ast.Assign):
            return all(
                getattr(target, "attr", "") == "requires_grad" for target in statement.targets
            )
        if isinstance(statement, ast.Raise):
            return not self.catches()
        return isinstance(statement, ast.Pass)


def _keeps(statement: ast.AST | None) -> bool:
    """Whether a statement binds an attribute, or an element."""
    if isinstance(statement, ast.Assign):
        return not all(isinstance(target, ast.Name) for target in statement.targets)
    if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        return not isinstance(statement.target, ast.Name)
    return False


def is_identity(node: ast.AST | None) -> bool:
    """``a is b``, ``a is not b``."""
    return isinstance(node, ast.Compare) and all(
        isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops
    )


def is_local(name: str, scope: ast.AST) -> bool:
    """Whether a name is that of a function alone: no ``global`` or ``nonlocal`` hands it on."""
    shared = (n.names for n in ast.walk(scope) if isinstance(n, (ast.Global, ast.Nonlocal)))
    return not any(name in names for names in shared)
