"""Writes calls of Relax, each bound to a variable in its block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, Expression, LinearOperator
from bnfx.passes.algebra.rearrange import permute
from bnfx.passes.relax import compat
from bnfx.passes.relax.blocks import Blocks
from bnfx.passes.relax.compat import Expr
from bnfx.passes.relax.expressions import Bindings, Value, rebuilt
from bnfx.passes.tvm import dataflow
from bnfx.passes.tvm.emitter import Emitter
from bnfx.passes.tvm.layouts import SPATIAL

_CONVS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
# Not each of these is in every TVM.
_TRANSPOSED = {n: getattr(relax.op.nn, f"conv{n}d_transpose", None) for n in (1, 2, 3)}


class RelaxEmitter(Emitter):
    """Writes one sequence of binding blocks.

    Args:
        flow: the old one.
        builder: a ``relax.BlockBuilder`` on the module, which infers types.
    """

    def __init__(self, flow: Bindings, builder: Expr) -> None:
        self._blocks = Blocks(flow, builder)

    def constant(self, array: Any) -> Expr:
        return compat.constant(array)

    def add(self, one: Expr, other: Expr) -> Expr:
        return relax.op.add(one, other)

    def multiply(self, one: Expr, other: Expr) -> Expr:
        return relax.op.multiply(one, other)

    def cast(self, data: Expr, dtype: str) -> Expr:
        return relax.op.astype(data, dtype)

    def bias(self, data: Expr, array: Any, axis: int, rank: int) -> Expr:
        """One that stands along the last axis is a vector, any other has the rank of ``data``."""
        sizes = [1] * rank
        sizes[axis] = array.size
        shape = sizes[-1:] if axis == rank - 1 else sizes
        return relax.op.add(data, compat.constant(np.reshape(array, shape)))

    def stored(self, operator: LinearOperator) -> Expression:
        """As the operator has it, but for a dense operator ``(in, out)``."""
        weight = operator.weight
        return permute(weight, (1, 0)) if isinstance(operator, Dense) else weight

    def operator(self, operator: LinearOperator, data: Expr, weight: Expr, rank: int) -> Expr:
        if isinstance(operator, Dense):
            return relax.op.matmul(data, weight)
        assert isinstance(operator, (Conv, ConvTranspose))
        spatial = len(operator.kernel)
        axes = SPATIAL[spatial]
        befores, afters = zip(*operator.padding, strict=True)
        arguments: dict[str, Any] = {
            "strides": list(operator.stride),
            "padding": [*befores, *afters],
            "dilation": list(operator.dilation),
            "groups": operator.groups,
            "data_layout": f"N{axes}C" if operator.channels_last else f"NC{axes}",
        }
        if isinstance(operator, Conv):
            return _CONVS[spatial](data, weight, kernel_layout=f"OI{axes}", **arguments)
        call = _TRANSPOSED[spatial]
        if call is None:
            raise ValueError(f"this Relax has no transposed convolution of {spatial} dimensions")
        arguments["output_padding"] = list(operator.output_padding)
        return call(data, weight, kernel_layout=f"IO{axes}", **arguments)

    def rebuilt(self, expr: Expr, children: Sequence[Expr]) -> Expr:
        return rebuilt(expr, list(children))

    def operands(self, value: dataflow.Value) -> Sequence[Expr]:
        return [_read_by(arg) for arg in value.args]

    def nested(self, value: dataflow.Value, args: Sequence[Expr], expr: Expr) -> Expr:
        names = [_read_by(arg) for arg in value.args]
        return self._blocks.nested(_own(value), list(zip(names, args, strict=True)), expr)

    def copy(self, value: dataflow.Value, expr: Expr) -> Expr:
        return self._blocks.copy(_own(value), expr)

    def step(self, expr: Expr, place: dataflow.Value) -> Expr:
        return self._blocks.step(expr, _own(place))

    def bind(self, expr: Expr, place: dataflow.Value, old: Sequence[dataflow.Value]) -> Expr:
        return self._blocks.bind(expr, _own(place), list(map(_own, old)))

    def seen_by_all(self, written: Sequence[Expr]) -> Expr:
        """A variable of a dataflow block is seen inside of it alone."""
        outside = (one for one in written if not isinstance(one, relax.DataflowVar))
        return next(outside, written[-1])

    def body(self, result: Expr) -> Expr:
        return self._blocks.sequence(result)


def _own(value: dataflow.Value) -> Value:
    assert isinstance(value, Value)
    return value


def _read_by(value: dataflow.Value) -> Expr:
    """What a reader of the value has as its operand."""
    own = _own(value)
    return own.expr if own.binding is None else own.binding.var
