"""What the Relax tests build graphs with, and run them by. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnfx import Code
from bnfx.passes.relax.compat import TensorType, constant, type_of
from bnfx.tvm.relax import Runner

# What a BatchNorm leaves behind where it is not folded.
EPS = 1e-5  # of nn.batch_norm, by default
AFFINE_OPS = frozenset({"multiply", "add", "subtract", "divide", "negative"})
Expr = Any
VERSION = tuple(int(part) for part in tvm.__version__.split(".")[:2])


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
        var = self.variance(channels, options.get("epsilon", EPS))
        return self.call("nn.batch_norm", x, gamma, *rest, var, **options)

    def variance(self, channels: int, eps: float) -> Expr:
        return self.constant(channels, low=0.2, high=2.0)

    def module(self, build: Callable[[Make], Any]) -> tvm.IRModule:
        """What ``build`` makes, as a function of its inputs, in one dataflow block."""
        with self.builder.function("main"):
            with self.builder.dataflow():
                result = self.builder.emit_output(build(self))
            self.builder.emit_func_output(result, params=self.inputs)
        return self.builder.get()


def pair(*parts: Expr) -> Expr:
    """A result of several tensors."""
    return relax.Tuple(list(parts))


@dataclass(frozen=True)
class Case:
    """A graph, and what must become of it.

    Args:
        build: makes the result, or a whole module with ``whole``.
        folded, lowered, kept, merged: BatchNorms with that verdict.
        codes: of all refusals of BatchNorms, together.
        left: multiplications, additions and so on in the folded module.
        whole: whether ``build`` gives a module.
        runs: whether TVM can build the graph at all, folded or not.
    """

    name: str
    build: Callable[[Make], Any]
    folded: int = 1
    lowered: int = 0
    kept: int = 0
    merged: int = 0
    codes: tuple[Code, ...] = ()
    left: int = 1
    dtype: str = "float64"
    whole: bool = False
    runs: bool = True

    def module(self, kind: type[Make] = Make) -> tvm.IRModule:
        seed = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "little")
        make = kind(seed, self.dtype)
        module = self.build(make) if self.whole else make.module(self.build)
        assert isinstance(module, tvm.IRModule)
        relax.analysis.well_formed(module)
        return module


def inputs_of(module: tvm.IRModule, function: str = "main", seed: int = 1) -> list[Any]:
    """Random inputs; 3 for a size that is not fixed."""
    random = np.random.default_rng(seed)
    found = []
    for variable in module[function].params:
        kind = type_of(variable)
        shape = [int(s) if isinstance(s, tvm.tirx.IntImm) else 3 for s in kind.shape.values]
        dtype = str(kind.dtype).removeprefix("T.")
        found.append(np.asarray(random.normal(size=shape) + (dtype == "bool")).astype(dtype))
    return found


def unfolded(module: tvm.IRModule) -> Any:
    """Built by TVM's generic pipeline, which lowers each op by itself and fuses nothing.

    It knows no functions inside of others, so these are lifted out. LLVM optimises nothing, which
    takes half the time.
    """
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    return tvm.compile(relax.transform.LambdaLift()(module), target)


def outputs(executable: Any, inputs: Sequence[Any], function: str = "main") -> list[Any]:
    """All arrays that it returns, in order."""
    return list(_flat(Runner(executable, function=function)(*inputs)))


def _flat(value: Any) -> Any:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


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
    """How often each operator is called, functions and branches inside included."""
    found: Counter[str] = Counter()

    def visit(expr: Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            found[str(expr.op.name).removeprefix("relax.")] += 1

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return found


def affine_ops(module: tvm.IRModule) -> int:
    return sum(number for name, number in count(module).items() if name in AFFINE_OPS)


def same(one: tvm.IRModule, other: tvm.IRModule) -> bool:
    """Whether two modules are equal, constants included."""
    try:
        tvm.ir.assert_structural_equal(one, other)
    except ValueError:
        return False
    return True
