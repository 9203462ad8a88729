"""Shapes of values whose sizes may not be fixed.

Relay writes ``Any`` for a size that is not fixed, and says of no two whether they are equal. Here
each gets a name, and an op whose output has an axis of its input's hands that axis's name on: so
two values have one shape only where that is proved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import relay

from bnfx.passes.crossing import Dims
from bnfx.passes.graph import Node
from bnfx.passes.relay.expressions import Expr, numbers, op_name, static
from bnfx.passes.tvm.layouts import transform_order

# The output has the shape of the first input.
_SAME = frozenset(
    {"nn.batch_norm", "nn.bias_add", "nn.dropout", "nn.softmax", "nn.fast_softmax", "copy", "cast"}
    | {"nn.relu", "nn.leaky_relu", "nn.prelu", "clip", "negative", "sigmoid", "tanh", "exp", "abs"}
    | {"sqrt", "rsqrt", "erf", "log", "annotation.stop_fusion"}
)
# The output has the first axis of the first input: the batch.
_BATCHED = ("nn.conv", "nn.max_pool", "nn.avg_pool", "nn.global_", "nn.adaptive_", "nn.upsampling")
_ALSO_BATCHED = frozenset({"nn.batch_flatten", "image.resize2d"})
_PADDING = frozenset({"nn.pad", "nn.mirror_pad"})
_BROADCASTING = frozenset({"add", "subtract", "multiply", "divide", "maximum", "minimum"})


class Shapes:
    """Names sizes that are not fixed."""

    def __init__(self) -> None:
        self._fresh: Iterator[int] = itertools.count()

    def of(self, expr: Expr, kind: Any, inputs: Sequence[Node]) -> Dims:
        """The shape of ``expr``, which has the tensor type ``kind`` and reads ``inputs``."""
        sizes = [static(dim) for dim in kind.shape]
        if None not in sizes:
            return tuple(size for size in sizes if size is not None)
        expr, inputs = _in_place_of_tuples(expr, inputs)
        before = inputs[0].shape if inputs else None
        inherit = _rule(expr, sizes, inputs)
        return tuple(
            self._named(dim, axis, before, inherit) if size is None else size
            for axis, (dim, size) in enumerate(zip(kind.shape, sizes, strict=True))
        )

    def _named(
        self, dim: Any, axis: int, before: Dims | None, inherit: Callable[[int], int | None]
    ) -> int | str:
        if hasattr(dim, "name"):  # a symbolic size, which has a name already
            return str(dim.name)
        source = inherit(axis)
        if before is not None and source is not None and isinstance(before[source], str):
            return before[source]
        return f"?{next(self._fresh)}"


def _in_place_of_tuples(expr: Expr, inputs: Sequence[Node]) -> tuple[Expr, Sequence[Node]]:
    """The call that makes the value, and the tensors that it reads, where tuples stand between."""
    if not inputs:
        return expr, inputs
    whole = inputs[0]
    if isinstance(expr, relay.TupleGetItem) and op_name(whole.origin) == "split":
        return whole.origin, whole.inputs
    if op_name(expr) == "concatenate" and isinstance(whole.origin, relay.Tuple):
        return expr, whole.inputs
    return expr, inputs


def _rule(
    expr: Expr, sizes: Sequence[int | None], inputs: Sequence[Node]
) -> Callable[[int], int | None]:
    """Which axis of the first input an axis of the output is."""
    name = op_name(expr) or ""
    before = inputs[0].shape if inputs else None
    rank = len(sizes)
    if before is None:
        return lambda axis: None
    if name in _SAME:
        return lambda axis: axis
    if name in _BROADCASTING and _one_shape(inputs, rank):
        return lambda axis: axis
    if name == "concatenate" and len({len(i.shape or ()) for i in inputs}) == 1:
        joined = int(expr.attrs.axis) % rank
        agreed = [len({i.shape[axis] for i in inputs if i.shape}) == 1 for axis in range(rank)]
        return lambda axis: axis if axis != joined and agreed[axis] else None
    if name == "nn.dense":
        return lambda axis: axis if axis < rank - 1 else None
    if name.startswith(_BATCHED) or name in _ALSO_BATCHED:
        layout = getattr(expr.attrs, "data_layout", getattr(expr.attrs, "layout", "N"))
        return lambda axis: 0 if axis == 0 and str(layout).startswith("N") else None
    if name == "nn.batch_matmul":  # one of the two may be broadcast
        other = inputs[1].shape
        alike = other is not None and other[0] in (1, before[0])
        return lambda axis: 0 if axis == 0 and alike else None
    if name in _PADDING:
        padded = [any(numbers(pair)) for pair in expr.attrs.pad_width]
        return lambda axis: None if padded[axis] else axis
    if name == "strided_slice" and expr.attrs.axes:
        sliced = {axis % rank for axis in numbers(expr.attrs.axes)}
        return lambda axis: None if axis in sliced else axis
    if name == "split":
        return lambda axis: axis if axis != int(expr.attrs.axis) % rank else None
    order = None
    if name == "transpose":
        order = numbers(expr.attrs.axes) if expr.attrs.axes else tuple(range(rank))[::-1]
    elif name == "layout_transform":
        order = transform_order(str(expr.attrs.src_layout), str(expr.attrs.dst_layout))
    if order is not None:
        axes = [axis % rank for axis in order]
        return lambda axis: axes[axis]
    if name == "reshape" and sizes[0] is None and isinstance(before[0], str):
        rest = [size for size in before[1:] if isinstance(size, int)]
        known = [size for size in sizes[1:] if size is not None]
        fixed = len(rest) == len(before) - 1 and len(known) == rank - 1
        if fixed and math.prod(rest) == math.prod(known) != 0:
            return lambda axis: 0 if axis == 0 else None
    return lambda axis: None


def _one_shape(inputs: Sequence[Node], rank: int) -> bool:
    """Whether all operands are of one shape, or the others are constants that are broadcast."""
    first = inputs[0].shape
    if first is None or len(first) != rank:
        return False
    for other in inputs[1:]:
        sizes = other.shape
        if sizes == first:
            continue
        if sizes is None or len(sizes) > rank:
            return False
        aligned = zip(first[rank - len(sizes) :], sizes, strict=True)
        if any(theirs not in (1, ours) for ours, theirs in aligned):
            return False
    return True
