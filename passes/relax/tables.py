"""What Relax calls things."""

from __future__ import annotations

import numpy as np

from bnfx.passes.algebra import LinearOperator, Source
from bnfx.passes.crossing import Dims, Movement, Permute
from bnfx.passes.graph import Node
from bnfx.passes.lifting.pads import padded
from bnfx.passes.lifting.shuffles import depth_to_space
from bnfx.passes.lifting.slices import sliced
from bnfx.passes.lifting.windows import repeated
from bnfx.passes.relax.compat import Expr, number
from bnfx.passes.relax.shapes import NamedSizes, dtype_of, rank_of, sizes_of
from bnfx.passes.tvm import movements
from bnfx.passes.tvm.constant_arrays import CAST, ELEMENTWISE, FILLED, RESHAPE, Array
from bnfx.passes.tvm.dataflow import Value, numbers
from bnfx.passes.tvm.dialect import Called, Computation, Dialect, MovementReader, OperatorReader
from bnfx.passes.tvm.operators import convolution, dense
from bnfx.passes.tvm.weight_layouts import WeightLayout

_RESHAPES = ("reshape", "flatten", "nn.batch_flatten", "squeeze", "expand_dims")
_RANKS = (1, 2, 3)


def _layout_transform(called: Called, before: Dims, after: Dims) -> Movement | None:
    """Where its index map only permutes the axes."""
    index_map = called.attrs.index_map
    names = list(index_map.initial_indices)
    order = [
        axis
        for index in index_map.final_indices
        for axis, name in enumerate(names)
        if name.same_as(index)
    ]
    permutes = sorted(order) == list(range(len(before))) and len(after) == len(before)
    return Permute(tuple(order)) if permutes else None


def _pad(called: Called, before: Dims, after: Dims) -> Movement | None:
    attrs, widths = called.attrs, numbers(called.attrs.pad_width)
    sides = zip(widths[::2], widths[1::2], strict=True)
    return padded(sides, str(attrs.pad_mode), float(attrs.pad_value))


def _strided_slice(called: Called, before: Dims, after: Dims) -> Movement | None:
    axes, begins, _, *steps = (_listed(arg.expr) for arg in called.value.args[1:])
    if axes is None or begins is None or any(step is None for step in steps):
        return None
    if any(step != 1 for some in steps for step in some or ()):
        return None
    named = (axis % len(before) for axis in axes)
    return sliced(before, after, dict(zip(named, begins, strict=True)))


def _listed(operand: Expr) -> list[int] | None:
    """An operand that is a tuple of numbers."""
    found = [number(field) for field in getattr(operand, "fields", (operand,))]
    integers = [value for value in found if isinstance(value, int)]
    return integers if len(integers) == len(found) else None


def _pixel_shuffle(called: Called, before: Dims, after: Dims) -> Movement | None:
    factor = int(called.attrs.upscale_factor)
    return depth_to_space(before, after, factor, columns_first=True, last=False)


def _tile(called: Called, before: Dims, after: Dims) -> Movement | None:
    repeats = numbers(called.attrs.repeats)
    changed = (axis - len(repeats) for axis, count in enumerate(repeats) if count != 1)
    return repeated(before, after, changed)


_MOVEMENTS: dict[str, MovementReader] = {
    "nn.dropout": movements.identity,  # in inference, which is all that TVM compiles
    **dict.fromkeys(("nn.relu", "nn.leakyrelu", "nn.prelu"), movements.homogeneous),
    **dict.fromkeys(_RESHAPES, movements.reshape),
    "permute_dims": movements.transpose,
    "layout_transform": _layout_transform,
    **dict.fromkeys((f"nn.max_pool{n}d" for n in _RANKS), movements.max_pool),
    **dict.fromkeys((f"nn.avg_pool{n}d" for n in _RANKS), movements.avg_pool),
    **dict.fromkeys(
        (f"nn.adaptive_avg_pool{n}d" for n in _RANKS), movements.pool_over_all(by_order=False)
    ),
    "mean": movements.reduction(by_order=False),
    "max": movements.reduction(by_order=True),
    **dict.fromkeys(("image.resize2d", "image.resize3d"), movements.resize),
    "nn.pad": _pad,
    "strided_slice": _strided_slice,
    "nn.pixel_shuffle": _pixel_shuffle,
    "repeat": movements.repeat,
    "tile": _tile,
}


def _permuted(value: Value, shape: object, dtype: str, operand: Array) -> object:
    axes = value.attrs.axes
    return np.transpose(operand, None if axes is None else numbers(axes))


_COMPUTATIONS: dict[str, Computation] = {
    **ELEMENTWISE,
    **FILLED,
    **dict.fromkeys(_RESHAPES, RESHAPE),
    "astype": CAST,
    "permute_dims": Computation(_permuted, slice(0, 1)),
    "full": Computation(
        lambda value, shape, dtype, fill: np.full(shape, fill, dtype), slice(1, None)
    ),
    "broadcast_to": Computation(
        lambda value, shape, dtype, operand: np.broadcast_to(operand, shape), slice(0, 1)
    ),
}


def _matmul(value: Value, source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    if len(weight.shape) != 2 or source.rank is None or source.rank < 2:
        raise ValueError(f"it multiplies a value of rank {source.rank} by a {weight.shape} weight")
    return dense(weight, swapped=True)


_LINEAR: dict[str, OperatorReader] = {
    **{f"nn.conv{n}d{kind}": convolution for n in _RANKS for kind in ("", "_transpose")},
    "matmul": _matmul,
}

RELAX = Dialect(
    linear=_LINEAR,
    movements=_MOVEMENTS,
    computations=_COMPUTATIONS,
    biases=frozenset({"add"}),
    concat="concat",
    shapes=NamedSizes,
    rank_of=rank_of,
    dtype_of=dtype_of,
    sizes_of=sizes_of,
)
