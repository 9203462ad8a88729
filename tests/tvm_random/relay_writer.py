"""Relay modules of random networks, and an interpreter of theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import tvm
from tvm import relay

from bnfx.passes.relay.expressions import op_name
from tvm_random.arrays import OPS, pad
from tvm_random.equivalents import Rewritten
from tvm_random.program import Expr, Network, Tensor, Writer, start

_NAMES = {"permute_dims": "transpose"}


def _tensor(array: Any) -> Expr:
    """A constant; ``relay.const`` would make float32 of float64."""
    return relay.Constant(tvm.nd.array(np.ascontiguousarray(array).reshape(np.shape(array))))


class RelayWriter(Writer):
    """Args: seed: of the network."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.depth = 0

    def constant(self, array: Any) -> Expr:
        return _tensor(array)

    def op(self, name: str, *args: Any, **options: Any) -> Expr:
        if name == "matmul":  # Relay's takes matrices alone
            return relay.nn.dense(args[0], _tensor(args[1].data.numpy().T))
        if name.startswith("nn.conv"):
            layout, shape = options["kernel_layout"], args[1].data.shape
            options["channels"] = int(shape[layout.index("O")])
            options["kernel_size"] = [
                int(size) for size, axis in zip(shape, layout, strict=True) if axis not in "OI"
            ]
        return reduce(getattr, _NAMES.get(name, name).split("."), relay)(*args, **options)  # type: ignore[operator]

    def shape(self, expr: Expr) -> tuple[int, ...]:
        return tuple(int(size) for size in relay.transform.InferTypeLocal(expr).shape)

    def concat(self, parts: list[Expr], axis: int) -> Expr:
        return relay.concatenate(parts, axis)

    def split(self, x: Expr, sections: int, axis: int) -> list[Expr]:
        whole = relay.split(x, sections, axis)
        return [whole[part] for part in range(sections)]

    def slice(self, x: Expr, axis: int, start: int, stop: int) -> Expr:
        return relay.strided_slice(x, [start], [stop], axes=[axis])

    def pad(self, x: Expr, sides: list[tuple[int, int]], mode: str, fill: float) -> Expr:
        return relay.nn.pad(x, sides, _tensor(np.float64(fill)), mode)

    def batch_norm(self, x: Expr, statistics: list[Expr], **options: Any) -> Expr:
        return relay.nn.batch_norm(x, *statistics, **options)[0]

    def extra(self, network: Network, x: Tensor) -> Tensor:
        kinds = ("let", "dead") if self.depth else ("let", "dead", "function", "if", "if")
        match network.draw(*kinds):
            case "let":
                y = relay.var("y", shape=x.shape, dtype="float64")
                inner = network.norm(Tensor(y, x.shape, x.last))
                return Tensor(relay.Let(y, x.expr, inner.expr), x.shape, x.last)
            case "dead":  # what is bound and not read
                # Read twice, a ``let`` would bind its variable twice, which is malformed.
                read, unread = (
                    relay.var(name, shape=x.shape, dtype="float64") for name in ("read", "unread")
                )
                dead = network.norm(network.unary(Tensor(read, x.shape, x.last)))
                body = relay.Let(unread, dead.expr, read)
                return Tensor(relay.Let(read, x.expr, body), x.shape, x.last)
            case "function":
                return self._function(network, x)
        return self._if(network, x)

    def _function(self, network: Network, x: Tensor) -> Tensor:
        """A function that is called where it is written: its argument, or layers."""
        self.depth += 1
        z = relay.var("z", shape=x.shape, dtype="float64")
        y = Tensor(z, x.shape, x.last)
        if network.draw(True, True, False):
            y = network.norm(network.conv(y))
        self.depth -= 1
        return Tensor(relay.Call(relay.Function([z], y.expr), [x.expr]), y.shape, x.last)

    def _if(self, network: Network, x: Tensor) -> Tensor:
        """Branches with layers of their own, over one value."""
        self.depth += 1
        one, other = (network.norm(network.arithmetic(x)).expr for _ in range(2))
        self.depth -= 1
        which = _tensor(np.asarray(bool(self.random.integers(2))))
        return Tensor(relay.If(which, one, other), x.shape, x.last)


class Equivalent(Rewritten, RelayWriter):
    """The same network, each layer written in a way drawn from ``other``, or as ``chosen``."""

    def array(self, constant: Expr) -> Any:
        return constant.data.numpy()


def random_module(
    seed: int, writer: RelayWriter | None = None
) -> tuple[tvm.IRModule, tuple[int, ...], int]:
    """A module, the shape of its input, and how many BatchNorms it has."""
    writer = writer or RelayWriter(seed)
    shape, last = start(writer.random)
    network = Network(writer, int(writer.random.integers(3, 11)))
    return (
        written(shape, lambda x: network.build(Tensor(relay.nn.relu(x), shape, last)).expr),
        shape,
        network.norms,
    )


def written(shape: tuple[int, ...], body: Callable[[Expr], Expr]) -> tvm.IRModule:
    """A module whose main gives ``body`` of its input."""
    x = relay.var("x", shape=shape, dtype="float64")
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([x], body(x))))


def run(module: tvm.IRModule, *inputs: Any) -> Any:
    """What ``main`` computes."""
    return _called(module["main"], inputs, {})


def _called(function: Expr, inputs: Any, around: dict[Expr, Any]) -> Any:
    bound = {**around, **dict(zip(function.params, inputs, strict=True))}
    return _value(function.body, bound)


def _value(expr: Expr, known: dict[Expr, Any]) -> Any:
    """The value of an expression; ``known`` is what variables and shared expressions are."""
    if expr not in known:
        known[expr] = _computed(expr, known)
    return known[expr]


def _computed(expr: Expr, known: dict[Expr, Any]) -> Any:
    if isinstance(expr, relay.Constant):
        return expr.data.numpy()
    if isinstance(expr, relay.Let):
        known[expr.var] = _value(expr.value, known)
        return _value(expr.body, known)
    if isinstance(expr, relay.Tuple):
        return tuple(_value(field, known) for field in expr.fields)
    if isinstance(expr, relay.TupleGetItem):
        return _value(expr.tuple_value, known)[expr.index]
    if isinstance(expr, relay.If):
        return _value(expr.true_branch if _value(expr.cond, known) else expr.false_branch, known)
    assert isinstance(expr, relay.Call), type(expr)
    inputs = [_value(arg, known) for arg in expr.args]
    if isinstance(expr.op, relay.Function):
        return _called(expr.op, inputs, known)
    return _op(expr, *inputs)


_WRITTEN_HERE = frozenset(
    {"reshape", "expand_dims", "squeeze", "concatenate", "split", "strided_slice", "nn.pad"}
)


def knows(module: tvm.IRModule) -> bool:
    """Whether :func:`run` knows every operator of ``main``, in float64 and of fixed sizes."""
    known = True

    def visit(expr: Expr) -> None:
        nonlocal known
        if isinstance(expr, relay.Call) and isinstance(expr.op, tvm.ir.Op):
            kind = expr.checked_type
            kinds = kind.fields if isinstance(kind, tvm.ir.TupleType) else [kind]
            sizes = [size for one in kinds for size in one.shape]
            known &= expr.op.name in OPS or expr.op.name in _WRITTEN_HERE
            known &= all(one.dtype == "float64" for one in kinds)
            known &= all(isinstance(size, tvm.tir.IntImm) for size in sizes)

    relay.analysis.post_order_visit(module["main"], visit)
    return known


def _op(call: Expr, data: Any, *rest: Any) -> Any:
    name, attrs = op_name(call), call.attrs
    if name in ("reshape", "expand_dims", "squeeze"):
        return data.reshape([int(size) for size in call.checked_type.shape])
    if name == "concatenate":
        return np.concatenate(data, int(attrs.axis))
    if name == "split":
        where = attrs.indices_or_sections
        parts = [int(at) for at in where] if isinstance(where, tvm.ir.Array) else int(where)
        return tuple(np.split(data, parts, int(attrs.axis)))
    if name == "strided_slice":
        part = [slice(None)] * data.ndim
        for axis, begin, end in zip(attrs.axes, attrs.begin, attrs.end, strict=True):
            part[int(axis)] = slice(int(begin), int(end))
        return data[tuple(part)]
    if name == "nn.pad":
        sides = [(int(before), int(after)) for before, after in attrs.pad_width]
        return pad(data, sides, str(attrs.pad_mode), float(rest[0]))
    return OPS[name or ""](attrs, data, *rest)
