"""What Relay calls things."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfx.passes.algebra import LinearOperator, Source
from bnfx.passes.crossing import Dims, Movement
from bnfx.passes.graph import Node
from bnfx.passes.lifting.pads import padded
from bnfx.passes.lifting.shuffles import depth_to_space, space_to_depth
from bnfx.passes.lifting.slices import sliced
from bnfx.passes.lifting.windows import repeated
from bnfx.passes.relay.shapes import TracedSizes, dtype_of, rank_of, sizes_of
from bnfx.passes.tvm import movements
from bnfx.passes.tvm.constant_arrays import CAST, ELEMENTWISE, FILLED, RESHAPE, Array
from bnfx.passes.tvm.dataflow import Value, numbers
from bnfx.passes.tvm.dialect import Called, Computation, Dialect, MovementReader, OperatorReader
from bnfx.passes.tvm.layouts import transform_order
from bnfx.passes.tvm.operators import convolution, dense
from bnfx.passes.tvm.weight_layouts import WeightLayout

_RANKS = (1, 2, 3)
# Of depth_to_space. TVM's documentation writes CDR for CRD.
_COLUMNS_FIRST = {"DCR": False, "CRD": True, "CDR": True}


def _pad(called: Called, before: Dims, after: Dims) -> Movement | None:
    """Its fill is an operand."""
    fill = called.known(1)
    known = None if fill is None else float(fill.reshape(()))
    return padded(map(numbers, called.attrs.pad_width), str(called.attrs.pad_mode), known)


def _mirror_pad(called: Called, before: Dims, after: Dims) -> Movement | None:
    return padded(map(numbers, called.attrs.pad_width), "reflect", None)


def _strided_slice(called: Called, before: Dims, after: Dims) -> Movement | None:
    attrs = called.attrs
    known = str(attrs.slice_mode) in ("end", "size")
    if not known or any(step != 1 for step in numbers(attrs.strides)):
        return None
    axes = numbers(attrs.axes) if attrs.axes else range(len(attrs.begin))
    named = (axis % len(before) for axis in axes)
    return sliced(before, after, dict(zip(named, numbers(attrs.begin), strict=False)))


def _depth_to_space(called: Called, before: Dims, after: Dims) -> Movement | None:
    block, last = _block(called)
    columns_first = _COLUMNS_FIRST.get(str(called.attrs.mode))
    if columns_first is None:
        return None
    return depth_to_space(before, after, block, columns_first, last)


def _space_to_depth(called: Called, before: Dims, after: Dims) -> Movement | None:
    block, last = _block(called)
    return space_to_depth(before, after, block, columns_first=False, last=last)


def _block(called: Called) -> tuple[int, bool]:
    layout = str(called.attrs.layout)
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f"its layout is {layout}")
    return int(called.attrs.block_size), layout == "NHWC"


def _tile(called: Called, before: Dims, after: Dims) -> Movement | None:
    repeats = numbers(called.attrs.reps)
    changed = (axis - len(repeats) for axis, count in enumerate(repeats) if count != 1)
    return repeated(before, after, changed)


_MOVEMENTS: dict[str, MovementReader] = {
    **dict.fromkeys(("copy", "annotation.stop_fusion", "nn.dropout"), movements.identity),
    **dict.fromkeys(("nn.relu", "nn.leaky_relu", "nn.prelu"), movements.homogeneous),
    **dict.fromkeys(("reshape", "nn.batch_flatten", "squeeze", "expand_dims"), movements.reshape),
    "transpose": movements.transpose,
    "layout_transform": movements.layout_transform,
    **dict.fromkeys((f"nn.max_pool{n}d" for n in _RANKS), movements.max_pool),
    **dict.fromkeys((f"nn.avg_pool{n}d" for n in _RANKS), movements.avg_pool),
    **dict.fromkeys(
        (f"nn.{kind}_avg_pool{n}d" for kind in ("global", "adaptive") for n in _RANKS),
        movements.pool_over_all(by_order=False),
    ),
    **dict.fromkeys(
        (f"nn.{kind}_max_pool{n}d" for kind in ("global", "adaptive") for n in _RANKS),
        movements.pool_over_all(by_order=True),
    ),
    "mean": movements.reduction(by_order=False),
    "max": movements.reduction(by_order=True),
    **dict.fromkeys(
        ("nn.upsampling", "nn.upsampling3d", *(f"image.resize{n}d" for n in _RANKS)),
        movements.resize,
    ),
    "nn.pad": _pad,
    "nn.mirror_pad": _mirror_pad,
    "strided_slice": _strided_slice,
    "nn.depth_to_space": _depth_to_space,
    "nn.space_to_depth": _space_to_depth,
    "repeat": movements.repeat,
    "tile": _tile,
}


def _expand_dims(value: Value, shape: Any, dtype: str, operand: Array) -> Array:
    axis, count = int(value.attrs.axis), int(value.attrs.num_newaxis)
    axis += (operand.ndim + 1) * (axis < 0)
    return operand.reshape(*operand.shape[:axis], *(1,) * count, *operand.shape[axis:])


def _squeeze(value: Value, shape: Any, dtype: str, operand: Array) -> Array:
    return np.squeeze(operand, None if value.attrs.axis is None else numbers(value.attrs.axis))


def _transpose(value: Value, shape: Any, dtype: str, operand: Array) -> Array:
    return np.transpose(operand, numbers(value.attrs.axes) if value.attrs.axes else None)


def _layout_transform(value: Value, shape: Any, dtype: str, operand: Array) -> Array | None:
    order = transform_order(str(value.attrs.src_layout), str(value.attrs.dst_layout))
    return None if order is None else np.transpose(operand, order)


_COMPUTATIONS: dict[str, Computation] = {
    **ELEMENTWISE,
    **FILLED,
    "reshape": RESHAPE,
    "nn.batch_flatten": RESHAPE,
    "expand_dims": Computation(_expand_dims),
    "squeeze": Computation(_squeeze),
    "transpose": Computation(_transpose),
    "layout_transform": Computation(_layout_transform),
    "cast": CAST,
    "copy": Computation(lambda value, shape, dtype, operand: operand),
}


def _transposed(value: Value, source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    layout = str(value.attrs.kernel_layout)
    if layout.startswith("OI"):  # the default once, and it meant IO
        raise ValueError(f"its kernel layout {layout} depends on TVM's version")
    return convolution(value, source, weight)


def _product(value: Value, source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    if value.op == "nn.dense":
        return dense(weight, swapped=False)
    if value.attrs.transpose_a:
        raise ValueError("its data operand is transposed")
    return dense(weight, swapped=not value.attrs.transpose_b)


_LINEAR: dict[str, OperatorReader] = {
    **{f"nn.conv{n}d": convolution for n in _RANKS},
    **{f"nn.conv{n}d_transpose": _transposed for n in _RANKS},
    **dict.fromkeys(("nn.dense", "nn.matmul", "nn.batch_matmul"), _product),
}

RELAY = Dialect(
    linear=_LINEAR,
    movements=_MOVEMENTS,
    computations=_COMPUTATIONS,
    biases=frozenset({"nn.bias_add"}),
    concat="concatenate",
    shapes=TracedSizes,
    rank_of=rank_of,
    dtype_of=dtype_of,
    sizes_of=sizes_of,
)
