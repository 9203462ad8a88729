"""What the Relay tests build graphs with, and run them by."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # TVM downloads schedules otherwise

import numpy as np
import tvm
from tvm import relay
from tvm.contrib import graph_executor

from bnfx import Code

TARGET = "llvm -mtriple=x86_64-linux-gnu -mcpu=core-avx2"
# What a BatchNorm leaves behind where it is not folded.
AFFINE_OPS = frozenset({"multiply", "add", "subtract", "divide", "negative", "nn.bias_add"})
Expr = Any


def tensor(array: Any) -> Expr:
    """A constant; ``relay.const`` would make float32 of float64."""
    return relay.Constant(tvm.nd.array(np.asarray(array)))


@dataclass
class Make:
    """Random constants and layers of one graph, signed and far from identities."""

    seed: int
    dtype: str = "float64"

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def input(self, *shape: Any, name: str = "x") -> Expr:
        return relay.var(name, shape=shape, dtype=self.dtype)

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Expr:
        return tensor(self.random.uniform(low, high, shape).astype(self.dtype))

    def conv(
        self, x: Expr, out: int, inside: int, *kernel: int, bias: bool = False, **options: Any
    ) -> Expr:
        """A convolution of ``len(kernel)`` spatial dimensions, channels first."""
        groups = options.get("groups", 1)
        options = {"channels": out, "kernel_size": kernel, "padding": (0,) * len(kernel), **options}
        call = getattr(relay.nn, f"conv{len(kernel)}d")
        y = call(x, self.constant(out, inside // groups, *kernel), **options)
        return relay.nn.bias_add(y, self.constant(out), axis=1) if bias else y

    def transposed(
        self, x: Expr, out: int, inside: int, *kernel: int, bias: bool = False, **options: Any
    ) -> Expr:
        groups = options.get("groups", 1)
        options = {"channels": out, "kernel_size": kernel, "padding": (0,) * len(kernel), **options}
        call = getattr(relay.nn, f"conv{len(kernel)}d_transpose")
        y = call(x, self.constant(inside, out // groups, *kernel), **options)
        return relay.nn.bias_add(y, self.constant(out), axis=1) if bias else y

    def batch_norm(self, x: Expr, channels: int, positive: bool = False, **options: Any) -> Expr:
        return self.batch_norm_call(x, channels, positive, **options)[0]

    def batch_norm_call(
        self, x: Expr, channels: int, positive: bool = False, **options: Any
    ) -> Any:
        gamma = self.constant(channels, low=0.5 if positive else -1.5, high=1.5)
        rest = (self.constant(channels), self.constant(channels))
        variance = self.variance(channels, options.get("epsilon", 1e-5))
        return relay.nn.batch_norm(x, gamma, *rest, variance, **options)

    def variance(self, channels: int, eps: float) -> Expr:
        return self.constant(channels, low=0.2, high=2.0)


@dataclass(frozen=True)
class Case:
    """A graph, and what must become of it.

    Args:
        build: makes the body's expression.
        folded, lowered, kept, merged: BatchNorms with that verdict.
        codes: of all refusals of BatchNorms, together.
        left: elementwise affine ops in the optimised folded graph.
        executor: "graph", or "vm" for what the graph executor cannot run.
    """

    name: str
    build: Callable[[Make], Expr]
    folded: int = 1
    lowered: int = 0
    kept: int = 0
    merged: int = 0
    codes: tuple[Code, ...] = ()
    left: int = 1
    dtype: str = "float64"
    executor: str = "graph"

    def module(self, make: type[Make] = Make) -> tvm.IRModule:
        seed = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "little")
        return module_of(self.build(make(seed, self.dtype)))


def module_of(body: Expr) -> tvm.IRModule:
    if isinstance(body, tvm.IRModule):
        return relay.transform.InferType()(body)
    function = relay.Function(relay.analysis.free_vars(body), body)
    return relay.transform.InferType()(tvm.IRModule.from_expr(function))


def inputs_of(module: tvm.IRModule, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {}
    for variable in module["main"].params:
        kind = variable.checked_type
        shape = [int(size) if isinstance(size, tvm.tir.IntImm) else 3 for size in kind.shape]
        found[variable.name_hint] = random.normal(size=shape).astype(kind.dtype)
    return found


def run(library: Any, inputs: dict[str, Any]) -> list[Any]:
    """The outputs of a built library, on the graph executor."""
    executor = graph_executor.GraphModule(library["default"](tvm.cpu()))
    for name, value in inputs.items():
        executor.set_input(name, value)
    executor.run()
    return [executor.get_output(i).numpy() for i in range(executor.get_num_outputs())]


def run_vm(executable: Any, inputs: dict[str, Any]) -> list[Any]:
    """The outputs of a VM executable."""
    machine = tvm.runtime.vm.VirtualMachine(executable, tvm.cpu())
    result = machine.run(*(tvm.nd.array(value) for value in inputs.values()))
    parts = [result] if isinstance(result, tvm.nd.NDArray) else list(result)
    return [part.numpy() for part in parts]


def relative(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest difference, relative to the largest element of its output."""
    assert len(ours) == len(theirs)
    errors = []
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert np.isfinite(other).all()
        one, other = one.astype("float64"), other.astype("float64")
        errors.append(float(np.abs(one - other).max() / np.abs(other).max()))
    return max(errors)


def count(module: tvm.IRModule) -> Counter[str]:
    """How often each operator is called, functions inside included."""
    found: Counter[str] = Counter()

    def visit(expr: Expr) -> None:
        if isinstance(expr, relay.Call) and isinstance(expr.op, tvm.ir.Op):
            found[expr.op.name] += 1

    for function in module.functions.values():
        relay.analysis.post_order_visit(function, visit)
    return found


def affine_ops(module: tvm.IRModule) -> int:
    return sum(number for name, number in count(module).items() if name in AFFINE_OPS)


def optimised(module: tvm.IRModule) -> tvm.IRModule:
    """What TVM's own pipeline makes of a module."""
    with tvm.transform.PassContext(opt_level=3):
        return relay.optimize(module, TARGET)[0]
