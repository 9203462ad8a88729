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
from bnfx.passes.relay.expressions import op_name, static
from bnfx.passes.tvm.dataflow import Value, ValueForm, numbers
from bnfx.passes.tvm.layouts import transform_order

# Which axis of the first input an axis of the output is.
Origin = Callable[[int], int | None]
# Of an op by its attributes, the output's sizes, and the inputs.
Rule = Callable[[Any, Sequence[int | None], Sequence[Node]], Origin]


def sizes_of(kind: Any) -> tuple[int | None, ...] | None:
    """The sizes of a tensor type, ``None`` for one that is not fixed."""
    return tuple(map(static, kind.shape)) if _is_tensor(kind) else None


def rank_of(kind: Any) -> int | None:
    """The number of dimensions; Relay's types say every rank."""
    return len(kind.shape) if _is_tensor(kind) else None


def dtype_of(kind: Any) -> str | None:
    return str(kind.dtype) if _is_tensor(kind) else None


def _is_tensor(kind: Any) -> bool:
    return isinstance(kind, relay.TensorType)


class TracedSizes:
    """Names sizes that are not fixed."""

    def __init__(self) -> None:
        self._fresh: Iterator[int] = itertools.count()

    def of(self, value: Value, kind: Any, inputs: Sequence[Node]) -> Dims | None:
        """The shape of a value of the type ``kind`` that reads ``inputs``."""
        sizes = sizes_of(kind)
        if sizes is None or None not in sizes:
            return sizes  # type: ignore[return-value]
        maker, inputs = _in_place_of_tuples(value, inputs)
        before = inputs[0].shape if inputs else None
        rule = _RULES.get(op_name(maker) or "", _no_axis)
        origin = rule(getattr(maker, "attrs", None), sizes, inputs)
        return tuple(
            self._named(dim, axis, before, origin) if size is None else size
            for axis, (dim, size) in enumerate(zip(kind.shape, sizes, strict=True))
        )

    def _named(self, dim: Any, axis: int, before: Dims | None, origin: Origin) -> int | str:
        if hasattr(dim, "name"):  # a symbolic size, which has a name already
            return str(dim.name)
        source = origin(axis)
        if before is not None and source is not None and isinstance(before[source], str):
            return before[source]
        return f"?{next(self._fresh)}"


def _in_place_of_tuples(value: Value, inputs: Sequence[Node]) -> tuple[Any, Sequence[Node]]:
    """The call that makes the value, and the tensors that it reads, where tuples stand between."""
    whole = inputs[0] if inputs else None
    maker = None if whole is None else whole.origin
    if whole is not None and isinstance(maker, Value):
        if value.form is ValueForm.PART and maker.op == "split":
            return maker.expr, whole.inputs
        if maker.form is ValueForm.TUPLE:  # of the ops that are known, concatenate alone reads one
            return value.expr, whole.inputs
    return value.expr, inputs


def _nowhere(axis: int) -> int | None:
    return None


def _same(axis: int) -> int | None:
    return axis


def _no_axis(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _nowhere


def _every_axis(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _same


def _broadcast(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _same if _one_shape(inputs, len(sizes)) else _nowhere


def _all_but(axes: Iterator[int] | Sequence[int], rank: int) -> Origin:
    changed = {axis % rank for axis in axes}
    return lambda axis: None if axis in changed else axis


def _concatenate(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    rank = len(sizes)
    shapes = [node.shape for node in inputs if node.shape is not None]
    differ = [axis for axis in range(rank) if len({shape[axis] for shape in shapes}) != 1]
    return _all_but([int(attrs.axis), *differ], rank)


def _batch(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    """The first axis, where that is the batch."""
    layouts = [getattr(attrs, name, "") for name in ("data_layout", "layout", "out_layout")]
    first = all(str(layout or "N").startswith("N") for layout in layouts)
    return lambda axis: 0 if axis == 0 and first else None


def _dense(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _all_but([-1], len(sizes))


def _batch_matmul(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    """One of the two may be broadcast."""
    own, other = inputs[0].shape, inputs[1].shape
    alike = own is not None and other is not None and other[0] in (1, own[0])
    return lambda axis: 0 if axis == 0 and alike else None


def _pad(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    widths = enumerate(attrs.pad_width)
    return _all_but([axis for axis, pair in widths if any(numbers(pair))], len(sizes))


def _strided_slice(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _all_but(numbers(attrs.axes), len(sizes)) if attrs.axes else _nowhere


def _along(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    return _all_but([int(attrs.axis)], len(sizes))


def _transpose(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    rank = len(sizes)
    order = numbers(attrs.axes) if attrs.axes else tuple(range(rank))[::-1]
    return lambda axis: order[axis] % rank


def _layout_transform(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    order = transform_order(str(attrs.src_layout), str(attrs.dst_layout))
    return _nowhere if order is None else order.__getitem__


def _reshape(attrs: Any, sizes: Sequence[int | None], inputs: Sequence[Node]) -> Origin:
    """The batch stays if all other sizes are fixed and their product is the same."""
    before = inputs[0].shape or ()
    rest = [size for size in before[1:] if isinstance(size, int)]
    known = [size for size in sizes[1:] if size is not None]
    fixed = len(rest) == len(before) - 1 and len(known) == len(sizes) - 1
    return _same if fixed and math.prod(rest) == math.prod(known) != 0 else _nowhere


_ELEMENTWISE = (
    *("nn.batch_norm", "nn.bias_add", "nn.dropout", "nn.softmax", "nn.fast_softmax", "copy"),
    *("nn.relu", "nn.leaky_relu", "nn.prelu", "clip", "negative", "sigmoid", "tanh", "exp", "abs"),
    *("sqrt", "rsqrt", "erf", "log", "cast", "annotation.stop_fusion"),
)
_BATCHED = (
    *(f"nn.conv{n}d{kind}" for n in (1, 2, 3) for kind in ("", "_transpose")),
    *(f"nn.{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)),
    *(
        f"nn.{where}_{kind}_pool{n}d"
        for where in ("global", "adaptive")
        for kind in ("max", "avg")
        for n in (1, 2, 3)
    ),
    *("nn.upsampling", "nn.upsampling3d", "nn.batch_flatten", "image.resize2d"),
    *("nn.depth_to_space", "nn.space_to_depth"),
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _every_axis),
    **dict.fromkeys(_BATCHED, _batch),
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum"), _broadcast),
    **dict.fromkeys(("nn.pad", "nn.mirror_pad"), _pad),
    "concatenate": _concatenate,
    "nn.dense": _dense,
    "nn.batch_matmul": _batch_matmul,
    "strided_slice": _strided_slice,
    "split": _along,
    "repeat": _along,
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    "reshape": _reshape,
}


def _one_shape(inputs: Sequence[Node], rank: int) -> bool:
    """Whether all operands are of one shape, or the others are constants that are broadcast."""
    first = inputs[0].shape
    if first is None or len(first) != rank:
        return False
    for other in inputs[1:]:
        sizes = other.shape
        if sizes is None:
            return False
        aligned = zip(first[rank - len(sizes) :], sizes, strict=True)
        if any(theirs not in (1, ours) for ours, theirs in aligned):
            return False
    return True
