"""What TVM's operators compute otherwise than PyTorch's, in what :func:`bnfx.tvm.from_torch` wrote.

``relu``, ``maximum``, ``minimum``, ``max``, ``min`` and maximum pools lose NaN, which
``not_equal`` takes for equal to every number; convolutions and products of float16 are added up in
float16; ``sum`` and
``mean`` of many numbers round in one direction (:mod:`bnfx.tvm.repairs.long_sums`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from bnfx.passes.relax.compat import Expr, TensorType, call, constant, type_of
from bnfx.passes.relax.shapes import dtype_of
from bnfx.tvm.repairs.long_sums import LONG, total
from bnfx.tvm.repairs.with_nan import differ, largest_in_windows, of_two, over_axes, rectified

# An attribute of functions that compute as PyTorch does.
AS_TORCH = "bnfx.as_torch"

# The builder, the call as it was, and what it is to be called with.
Write = Callable[[Any, Expr, Sequence[Expr]], Expr]


def _rectified(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    zero = constant(np.zeros((1,) * _rank(old), _dtype(old)))
    return rectified(builder.emit, args[0], zero)


def _of_two(largest: bool) -> Write:
    return lambda builder, old, args: of_two(builder.emit, args[0], args[1], largest)


def _over_axes(largest: bool) -> Write:
    def write(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
        axes = _axes(old)
        found = builder.emit_te(lambda data: over_axes(data, axes, largest), args[0])
        return relax.op.reshape(found, type_of(old).shape)

    return write


def _added(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    count, keep = _count(old), bool(old.attrs.keepdims)
    result = total(builder.emit, args[0], _axes(old), count, keep)
    if old.op.name == "relax.sum":
        return result
    return relax.op.divide(result, constant(np.full((1,) * _rank(old), count, _dtype(old))))


def _product(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    """In float32: TVM adds up products in the dtype of the result."""
    wide = [builder.emit(relax.op.astype(x, "float32")) for x in args]
    return relax.op.astype(builder.emit(call(old.op, wide, old)), _dtype(old))


def _axes(reduction: Expr) -> list[int]:
    """Those that a reduction is over, counted from the front."""
    rank, axes = _rank(reduction.args[0]), reduction.attrs.axis
    return sorted(int(axis) % rank for axis in (range(rank) if axes is None else axes))


def _count(reduction: Expr) -> int:
    """Of how many numbers each is one; 0 if that is not known."""
    sizes = type_of(reduction.args[0]).shape.values
    counts = [getattr(sizes[axis], "value", 0) for axis in _axes(reduction)]
    return prod(counts)


def _pooled(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    attrs, out = old.attrs, _windows(old)
    kernel, stride, padding, rates = (
        [int(n) for n in getattr(attrs, name)]
        for name in ("pool_size", "strides", "padding", "dilation")
    )

    def pool(data: Any) -> Any:
        return largest_in_windows(data, kernel, stride, padding[: len(out)], rates, out)

    return builder.emit_te(pool, args[0])


def _windows(pool: Expr) -> list[int]:
    """How many windows a pool has in each dimension, if that is known."""
    spatial = len(pool.attrs.pool_size)
    sizes = [getattr(size, "value", None) for size in type_of(pool).shape.values[-spatial:]]
    return [size for size in sizes if isinstance(size, int)]


def _channels_first(pool: Expr) -> bool:
    spatial = len(pool.attrs.pool_size)
    layouts = {str(pool.attrs.layout), str(pool.attrs.out_layout)}
    return layouts == {"NC" + "DHW"[-spatial:]} and len(_windows(pool)) == spatial


_WRITERS: dict[str, Write] = {
    "relax.nn.relu": _rectified,
    "relax.maximum": _of_two(largest=True),
    "relax.minimum": _of_two(largest=False),
    "relax.not_equal": lambda builder, old, args: differ(builder.emit, *args),
    "relax.max": _over_axes(largest=True),
    "relax.min": _over_axes(largest=False),
    "relax.sum": _added,
    "relax.mean": _added,
    "relax.matmul": _product,
    **{f"relax.nn.conv{n}d{kind}": _product for n in (1, 2, 3) for kind in ("", "_transpose")},
    **{f"relax.nn.max_pool{n}d": _pooled for n in (1, 2, 3)},
}


def is_otherwise(called: Expr) -> bool:
    """Whether a call computes otherwise than PyTorch, and is known well enough to be rewritten."""
    write = _WRITERS.get(getattr(called.op, "name", ""))
    if write is None or not (_has_sizes(called) and all(map(_is_known, called.args))):
        return False
    if write is _pooled:
        return _channels_first(called)
    if write is _product:
        stated = str(called.attrs.out_dtype).removeprefix("T.")
        return _dtype(called) == "float16" and stated in ("None", "void", "")
    if write is _added:
        return _dtype(called) == "float32" and _count(called) > LONG
    return all(map(_rank, called.args))


def as_torch(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    """A call that :func:`is_otherwise`, by operators that are not."""
    return _WRITERS[old.op.name](builder, old, args)


def _has_sizes(x: Expr) -> bool:
    kind = type_of(x)
    return isinstance(kind, TensorType) and isinstance(kind.shape, relax.ShapeExpr)


def _is_known(x: Expr) -> bool:
    return _has_sizes(x) and "float" in _dtype(x)


def _rank(x: Expr) -> int:
    return int(type_of(x).ndim)


def _dtype(x: Expr) -> str:
    return dtype_of(type_of(x)) or ""
