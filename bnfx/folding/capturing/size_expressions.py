"""Expressions of sizes, as a capture found them, computed by nodes of a graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sympy import Ne, Symbol  # type: ignore[import-untyped]
from torch import fx
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A builtin as a node that is not looked into: in a graph that ``torch.jit.trace`` runs, sizes
    are tensors, which ``torch.sym_max`` does not take.
    """

    def write(one: Any, other: Any) -> Any:
        tracer = next((v.tracer for v in (one, other) if isinstance(v, fx.Proxy)), None)
        if tracer is None:
            return function(one, other)
        proxy = tracer.create_proxy("call_function", function, (one, other), {})
        proxy.node.meta["is_wrapped"] = True
        return proxy

    return write


class _Arithmetic(PythonReferenceAnalysis):
    maximum = staticmethod(_wrapped(max))
    minimum = staticmethod(_wrapped(min))

    @staticmethod
    def int_truediv(a: Any, b: Any) -> Any:
        return a / b

    @staticmethod
    def trunc_to_int(x: Any, dtype: torch.dtype) -> Any:
        return _rounded(math.trunc, x)

    @staticmethod
    def floor_to_int(x: Any, dtype: torch.dtype) -> Any:
        return _rounded(math.floor, x)

    @staticmethod
    def ceil_to_int(x: Any, dtype: torch.dtype) -> Any:
        return _rounded(math.ceil, x)


def _rounded(function: Callable[[Any], Any], x: Any) -> Any:
    """A node of ``math``, into which ``torch.fx`` does not look."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", function, (x,), {})
    return function(x)


class SizeExpressions:
    """Expressions of sizes, computed in the graph."""

    def __init__(self, graph: fx.Graph, sizes: Mapping[Symbol, tuple[fx.Node, int, str]]) -> None:
        self._graph = graph
        self._sizes = sizes
        self._proxies: dict[Symbol, fx.Proxy] = {}

    def run(self, expression: Any) -> Any:
        if isinstance(expression, Ne):  # it would become torch.sym_not, which cannot be compiled
            return operator.ne(*map(self.run, expression.args))
        for symbol in expression.free_symbols:
            if symbol not in self._proxies:
                node, axis, _ = self._sizes[symbol]
                self._proxies[symbol] = fx.Proxy(self._graph.call_method("size", (node, axis)))
        return sympy_interp(_Arithmetic, self._proxies, expression)

    def words(self, expression: Any) -> str:
        if isinstance(expression, Ne):
            return " != ".join(map(self.words, expression.args))
        return str(
            expression.xreplace({s: Symbol(self._sizes[s][2]) for s in expression.free_symbols})
        )
