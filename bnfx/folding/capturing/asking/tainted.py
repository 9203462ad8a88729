"""What in a function has to do with a proxy, and whether it decides by that.

A decision is a test, ``and``, ``or``, ``is``, ``in``, a builtin like ``isinstance``, a look-up, or
a ``try`` around what may fail.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import nn

from bnfx.folding.capturing.asking.shown_text import arguments, called_name, formatted, said

# Builtins that pass values on and never look at them, or that a proxy refuses with an error.
_PASSING = frozenset(
    ["list", "tuple", "zip", "enumerate", "reversed", "dict", "range", "print", "super"]
)
_PASSING |= frozenset(["abs", "sum", "slice", "float", "int", "bool", "len", "iter", "next"])
_PASSING |= frozenset(["round", "min", "max", "sorted", "any", "all", "divmod", "pow", "complex"])
# Those that look, and may go by another name; and the same from the module ``operator``.
_LOOKING = frozenset(["isinstance", "issubclass", "type", "hasattr", "callable", "id", "hash"])
_OPERATORS = frozenset(["is_", "is_not", "contains", "truth", "not_", "indexOf", "countOf"])
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Run:
    """One function that ran, and what it was given."""

    code: CodeType
    module: str
    owner: Any  # the module whose method it is
    owner_name: str
    proxies: frozenset[str]
    holders: frozenset[str]  # containers with proxies in them, of which it is true what is asked


class Reader:
    """One function: which of its names have to do with proxies, and what it decides by."""

    def __init__(self, run: Run, sources: set[str], function: Any) -> None:
        self._run = run
        self._sources = sources
        body = function.body if isinstance(function.body, list) else [function.body]
        self._nodes = [node for statement in body for node in _own(statement)]
        self._said = {each for node in self._nodes for each in said(node)}
        self._tainted = set(run.proxies | run.holders)
        while self._spread():
            pass

    def _spread(self) -> bool:
        """Names that get what has to do with a proxy."""
        before = len(self._tainted)
        for node in self._nodes:
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                value = node.value
            elif isinstance(node, (ast.For, ast.comprehension)):
                targets, value = [_elements(node.target, node.iter)], node.iter
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                targets, value = [node.optional_vars], node.context_expr
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if any(self._is_tainted(each) for each in arguments(node)):
                    root = _root(node.func)
                    if isinstance(root, ast.Name) and root.id != self._run.owner_name:
                        module = self._resolve(node.func)
                        if not self._is_global(root.id) and not isinstance(module, nn.Module):
                            self._tainted.add(root.id)
                continue
            else:
                continue
            if value is not None and self._is_tainted(value):
                roots = [_root(t) for target in targets for t in _flat(target)]
                self._tainted |= {r.id for r in roots if isinstance(r, ast.Name)}
        self._tainted.discard(self._run.owner_name)
        return len(self._tainted) > before

    def _is_global(self, name: str) -> bool:
        code = self._run.code
        return name not in code.co_varnames + code.co_cellvars + code.co_freevars

    def _is_tainted(self, node: ast.AST) -> bool:
        if isinstance(node, _FUNCTIONS):
            return False  # it has a run of its own
        if isinstance(node, ast.Compare) and self._asks_truly(node):
            return False
        if isinstance(node, ast.Name):
            return node.id in self._tainted
        if isinstance(node, ast.Attribute) and isinstance(_root(node), ast.Name):
            held = self._resolve(node)
            if held is not None:
                return isinstance(held, (torch.Tensor, nn.ParameterList, nn.ParameterDict))
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in self._sources and not arguments(node):
                return True
            if isinstance(self._resolve(node.func), nn.Module):
                return True
            if name == "isinstance" and self._is_holder(node.args[0]):
                return False
        return any(self._is_tainted(child) for child in ast.iter_child_nodes(node))

    def _asks_truly(self, node: ast.Compare) -> bool:
        """``is None`` of an attribute, or of a container: it is answered truly."""
        if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return False
        if not all(isinstance(c, ast.Constant) and c.value is None for c in node.comparators):
            return False
        root = _root(node.left)
        own = (
            isinstance(root, ast.Name) and root.id == self._run.owner_name and root is not node.left
        )
        return own or self._is_holder(node.left)

    def _is_holder(self, node: ast.AST) -> bool:
        assigned = {
            r.id
            for n in self._nodes
            if isinstance(n, ast.Assign)
            for t in n.targets
            for r in _flat(t)
            if isinstance(r, ast.Name)
        }
        return isinstance(node, ast.Name) and node.id in self._run.holders - assigned

    def _resolve(self, node: ast.AST) -> Any:
        """What ``self.a.b`` is; ``None`` if it is not known."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not names or not isinstance(node, ast.Name) or node.id != self._run.owner_name:
            return None
        held = self._run.owner
        for name in reversed(names):
            if not isinstance(held, nn.Module):
                return None
            tables = (held._modules, held._parameters, held._buffers, vars(held))
            held = next((table[name] for table in tables if name in table), None)
        return held

    def decision(self) -> int | None:
        """The line of a decision that may have to do with a proxy."""
        for node in self._nodes:
            if any(self._is_tainted(each) for each in self._asked(node)):
                asked = self._asked(node)[0]
                return int(getattr(node, "lineno", getattr(asked, "lineno", 0)))
        return None

    def _asked(self, node: ast.AST) -> list[ast.AST]:
        """The expressions that a node decides by."""
        if node in self._said:
            return []
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            return [node.test]
        if isinstance(node, ast.BoolOp):
            return list(node.values)
        if isinstance(node, ast.Compare):
            if any(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
                return [node]
            return []
        if isinstance(node, ast.comprehension):
            return list(node.ifs)
        if isinstance(node, ast.Match):
            return [node.subject]
        if (shown := formatted(node)) is not None:
            return shown
        if isinstance(node, ast.Try):
            return list(node.body)
        if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
            return [node.value]
        if isinstance(node, ast.Name) and node.id in _LOOKING and self._is_global(node.id):
            called = any(isinstance(n, ast.Call) and n.func is node for n in self._nodes)
            return [] if called or not self._tainted else [ast.Name(next(iter(self._tainted)))]
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in _OPERATORS:
                return arguments(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            known = self._is_global(name) and hasattr(builtins, name) and name not in _PASSING
            truly = name == "isinstance" and self._is_holder(node.args[0])
            return [] if not known or truly else arguments(node)
        if isinstance(node, ast.Subscript) and not self._is_tainted(node.value):
            return [node.slice]
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return (
                [node.value]
                if any(isinstance(t, ast.Attribute) for target in targets for t in _flat(target))
                else []
            )
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            return [ast.Name(next(iter(self._tainted)))] if self._tainted else []
        return []


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what stands in it, but for functions in it, which run by themselves."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _own(child)


def _elements(target: ast.expr, of: ast.expr) -> Any:
    """What a loop gives elements to; a place that ``enumerate`` counts is none."""
    counted = isinstance(of, ast.Call) and getattr(of.func, "id", "") == "enumerate"
    if counted and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        return target.elts[1]
    return target


def _flat(target: ast.AST) -> Iterator[ast.AST]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for each in target.elts:
            yield from _flat(each)
    else:
        yield target.value if isinstance(target, ast.Starred) else target


def _root(node: ast.AST) -> ast.AST:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node
