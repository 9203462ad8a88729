"""What in a function has to do with a proxy, and whether it decides by that.

A decision is a test, ``and``, ``or``, ``is``, ``in``, a builtin like ``isinstance``, a look-up, or
a ``try`` around what may fail.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import nn

from bnfx.folding.capturing.asking.looking import LOOKING, OPERATORS, PASSING, builtin, meant
from bnfx.folding.capturing.asking.parts_of_code import flat, own, root
from bnfx.folding.capturing.asking.shown_text import arguments, called_name, formatted, said

_TRIES = (ast.Try, getattr(ast, "TryStar", ast.Try))  # from Python 3.11 on
_HELD = (nn.ModuleList, nn.ModuleDict, nn.Sequential, list, tuple, dict)
_PARAMETERS = (torch.Tensor, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Run:
    """One function that ran, and what it was given.

    Args:
        code: what ran.
        module: where that stands.
        owner: the module whose method it is; its name in there is ``owner_name``.
        proxies: names of proxies.
        holders: those of containers with proxies in them, of which it is true what is asked.
        space: what names from outside of the function stand for.
        late: names that had to do with proxies when it ended.
        modules: names that stood for modules by then.
    """

    code: CodeType
    module: str
    owner: Any
    owner_name: str
    proxies: frozenset[str]
    holders: frozenset[str]
    space: Mapping[str, Any] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    modules: dict[str, nn.Module] = field(default_factory=dict)


class Reader:
    """One function: which of its names have to do with proxies, and what it decides by."""

    def __init__(self, run: Run, sources: set[str], function: Any) -> None:
        self._run = run
        self._sources = sources
        body = function.body if isinstance(function.body, list) else [function.body]
        self._nodes = [node for statement in body for node in own(statement)]
        self._said = {each for node in self._nodes for each in said(node)}
        self._tainted = set(run.proxies | run.holders | run.late)
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
                targets, value = [self._elements(node.target, node.iter)], node.iter
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                targets, value = [node.optional_vars], node.context_expr
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if any(self._is_tainted(each) for each in arguments(node)):
                    first = root(node.func)
                    if isinstance(first, ast.Name) and first.id != self._run.owner_name:
                        module = self._resolve(node.func)
                        if not self._is_global(first.id) and not isinstance(module, nn.Module):
                            self._tainted.add(first.id)
                continue
            else:
                continue
            if value is not None and self._is_tainted(value):
                roots = [root(t) for target in targets for t in flat(target)]
                self._tainted |= {r.id for r in roots if isinstance(r, ast.Name)}
        self._tainted.discard(self._run.owner_name)
        return len(self._tainted) > before

    def _elements(self, target: ast.expr, of: ast.expr) -> Any:
        """What a loop gives elements to; a place that ``enumerate`` counts is none."""
        counted = isinstance(of, ast.Call) and self._meant(of.func) is enumerate
        if counted and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            return target.elts[1]
        return target

    def _is_global(self, name: str) -> bool:
        code = self._run.code
        return name not in code.co_varnames + code.co_cellvars + code.co_freevars

    def _meant(self, node: ast.AST) -> Any:
        """What a name from outside of the function stands for, or ``operator.is_``."""

        def space(name: str) -> Any:
            code = self._run.code
            inside = name in code.co_varnames + code.co_cellvars
            return None if inside else self._run.space.get(name)

        found = meant(node, space)
        return self._resolve(node) if found is None else found

    def _is_tainted(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Compare) and self._asks_truly(node):
            return False
        if isinstance(node, ast.Name):
            return node.id in self._tainted
        if (held := self._resolve(node)) is not None:
            return isinstance(held, _PARAMETERS)
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in self._sources:
                return True
            if isinstance(self._resolve(node.func), nn.Module):
                return True
            if name == "isinstance" and self._is_holder(node.args[0]):
                return False
        return any(self._is_tainted(child) for child in ast.iter_child_nodes(node))

    def _asks_truly(self, node: ast.Compare) -> bool:
        """``is None`` of a module's attribute, or of a container: it is answered truly."""
        if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return False
        if not all(isinstance(c, ast.Constant) and c.value is None for c in node.comparators):
            return False
        asked = node.left
        if isinstance(asked, ast.Attribute) and isinstance(self._module(asked.value), nn.Module):
            return True
        return self._is_holder(asked)

    def _is_holder(self, node: ast.AST) -> bool:
        assigned = {
            r.id
            for n in self._nodes
            if isinstance(n, ast.Assign)
            for t in n.targets
            for r in flat(t)
            if isinstance(r, ast.Name)
        }
        return isinstance(node, ast.Name) and node.id in self._run.holders - assigned

    def _module(self, node: ast.AST) -> Any:
        """The module that an expression stands for, if it is known to."""
        if not isinstance(node, ast.Name):
            return self._resolve(node)
        own_one = node.id == self._run.owner_name
        return self._run.owner if own_one else self._run.modules.get(node.id)

    def _resolve(self, node: ast.AST) -> Any:
        """What ``self.a.b`` is, or the parameter that it is something of; ``None`` if it is not
        known.
        """
        if isinstance(node, ast.Attribute):
            held, name = self._module(node.value), node.attr
            if isinstance(held, _PARAMETERS):
                return held
            if not isinstance(held, nn.Module):
                return None
            tables = (held._modules, held._parameters, held._buffers, vars(held))
            return next((table[name] for table in tables if name in table), None)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            held = self._module(node.value)
            with contextlib.suppress(LookupError, TypeError):
                return held[node.slice.value] if type(held) in _HELD else None
        return None

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
        if isinstance(node, _TRIES):
            return list(node.body)
        if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
            return [node.value]
        if isinstance(node, ast.Call):
            return self._asked_by_call(node)
        if isinstance(node, (ast.Name, ast.Attribute)) and builtin(self._meant(node)) in LOOKING:
            called = any(isinstance(n, ast.Call) and n.func is node for n in self._nodes)
            return [] if called else self._anything()
        if isinstance(node, ast.Subscript) and not self._is_tainted(node.value):
            return [node.slice]
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return (
                [node.value]
                if any(isinstance(t, ast.Attribute) for target in targets for t in flat(target))
                else []
            )
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            return self._anything()
        return []

    def _asked_by_call(self, node: ast.Call) -> list[ast.AST]:
        name = builtin(self._meant(node.func))
        if name is None:
            return arguments(node) if called_name(node) in OPERATORS else []
        truly = name == "isinstance" and self._is_holder(node.args[0])
        return [] if name in PASSING or truly else arguments(node)

    def _anything(self) -> list[ast.AST]:
        return [ast.Name(name) for name in list(self._tainted)[:1]]
