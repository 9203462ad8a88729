"""What the Relax tests build graphs with, and run them by. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnfx import Code
from bnfx.passes.relax.compat import TensorType, constant, name_of, type_of
from bnfx.tvm.relax import Runner

# What a BatchNorm leaves behind where it is not folded.
AFFINE_OPS = frozenset({"multiply", "add", "subtract", "divide", "negative"})
Expr = Any


@dataclass
class Make:
    """Random constants and layers of one graph, signed and far from identities.

    Calls are emitted at once, so that a graph is written as one expression.
    """

    seed: int
    dtype: str = "float64"

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.builder = relax.BlockBuilder()
        self.inputs: list[Expr] = []

    def input(self, *shape: Any, name: str = "x", dtype: str | None = None) -> Expr:
        variable = relax.Var(name, TensorType(shape, dtype or self.dtype))
        self.inputs.append(variable)
        return variable

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Expr:
        return constant(self.random.uniform(low, high, shape).astype(self.dtype))

    def emit(self, expr: Expr) -> Expr:
        return self.builder.emit(expr)

    def call(self, op: str, *args: Any, **options: Any) -> Expr:
        """``relax.op.<op>``, bound to a variable."""
        function: Any = relax.op
        for part in op.split("."):
            function = getattr(function, part)
        return self.emit(function(*args, **options))

    def bias(self, y: Expr, out: int, kind: str = "add", left: bool = False) -> Expr:
        """A bias as importers write it: ``reshape(const)``, then a sum."""
        rank = len(type_of(y).shape.values)
        shape = (1, out, *(1 for _ in range(rank - 2)))
        value = self.call("reshape", self.constant(out), shape)
        return self.call(kind, *((value, y) if left else (y, value)))

    def conv(
        self, x: Expr, out: int, inside: int, *kernel: int, bias: bool = False, **options: Any
    ) -> Expr:
        """A convolution of ``len(kernel)`` spatial dimensions, channels first."""
        weight = self.constant(out, inside // options.get("groups", 1), *kernel)
        y = self.call(f"nn.conv{len(kernel)}d", x, weight, **options)
        return self.bias(y, out) if bias else y

    def transposed(
        self, x: Expr, out: int, inside: int, *kernel: int, bias: bool = False, **options: Any
    ) -> Expr:
        weight = self.constant(inside, out // options.get("groups", 1), *kernel)
        y = self.call(f"nn.conv{len(kernel)}d_transpose", x, weight, **options)
        return self.bias(y, out) if bias else y

    def linear(self, x: Expr, out: int, inside: int, bias: bool = False) -> Expr:
        """As importers write it: ``matmul(x, permute_dims(weight))``, the bias on the left."""
        weight = self.call("permute_dims", self.constant(out, inside))
        y = self.call("matmul", x, weight)
        return self.call("add", self.constant(out), y) if bias else y

    def batch_norm(self, x: Expr, channels: int, positive: bool = False, **options: Any) -> Expr:
        return self.emit(self.batch_norm_call(x, channels, positive, **options)[0])

    def batch_norm_call(
        self, x: Expr, channels: int, positive: bool = False, **options: Any
    ) -> Any:
        options = {"axis": 1, "training": False, **options}
        gamma = self.constant(channels, low=0.5 if positive else -1.5, high=1.5)
        rest = (self.constant(channels), self.constant(channels))
        var = self.constant(channels, low=0.2, high=2.0)
        return self.call("nn.batch_norm", x, gamma, *rest, var, **options)

    def module(self, build: Callable[[Make], Any]) -> tvm.IRModule:
        """What ``build`` makes: its inputs as parameters, in a dataflow block."""
        # The block builder wants parameters first, so the graph is made twice: once to learn them.
        other = Make(self.seed, self.dtype)
        with other.builder.function("main", []), other.builder.dataflow():
            build(other)
            other.builder.emit_output(other.constant(1))
            other.builder.emit_func_output(relax.Tuple([]))
        self.parameters = other.inputs
        raise NotImplementedError
