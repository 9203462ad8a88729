"""Calls of both IRs -> roles that affine maps may cross; each IR has a table of its ops."""

from __future__ import annotations

from collections.abc import Sequence

from bnfx.passes.crossing import Dims, Homogeneous, Identity, Movement, Permute, Reshape, Window
from bnfx.passes.graph import Concat, Move, Node, Role
from bnfx.passes.lifting.windows import Pool, reduced, repeated
from bnfx.passes.tvm.dataflow import numbers
from bnfx.passes.tvm.dialect import Called, Dialect, MovementReader
from bnfx.passes.tvm.layouts import spatial_axes, transform_order


def read_movement(
    called: Called, node: Node, before: Sequence[Node], dialect: Dialect
) -> Role | None:
    """The role of a call that reads ``before``, or ``None`` if it has none."""
    if node.shape is None or not before or any(source.shape is None for source in before):
        return None
    if any((source.dtype, source.rank) != (node.dtype, before[0].rank) for source in before):
        return None
    if called.value.op == dialect.concat:
        axis = called.attrs.axis  # None joins what is flattened before
        return None if axis is None else Concat(int(axis) % len(node.shape))
    reader = dialect.movements.get(called.value.op or "")
    if reader is None or before[0].shape is None:
        return None
    try:
        movement = reader(called, before[0].shape, node.shape)
    except (ValueError, AttributeError):  # a layout that is not read, attributes of another TVM
        return None
    return None if movement is None else Move(movement)


def identity(called: Called, before: Dims, after: Dims) -> Movement:
    return Identity()


def homogeneous(called: Called, before: Dims, after: Dims) -> Movement:
    return Homogeneous()


def reshape(called: Called, before: Dims, after: Dims) -> Movement:
    return Reshape()


def transpose(called: Called, before: Dims, after: Dims) -> Movement:
    """Axes in another order, the opposite one if none are named."""
    rank, axes = len(before), called.attrs.axes
    order = numbers(axes) if axes else tuple(range(rank))[::-1]
    return Permute(tuple(axis % rank for axis in order))


def layout_transform(called: Called, before: Dims, after: Dims) -> Movement | None:
    order = transform_order(str(called.attrs.src_layout), str(called.attrs.dst_layout))
    return None if order is None else Permute(order)


def _spatial(called: Called, before: Dims) -> tuple[tuple[int, ...], bool]:
    out_layout = str(getattr(called.attrs, "out_layout", ""))
    return spatial_axes(str(called.attrs.layout), out_layout, len(before))


def _pool(called: Called, before: Dims) -> Pool:
    attrs = called.attrs
    axes, last = _spatial(called, before)
    return Pool(
        axes,
        last,
        numbers(attrs.pool_size),
        numbers(attrs.strides),
        numbers(attrs.padding),
        numbers(getattr(attrs, "dilation", ())),
        bool(attrs.ceil_mode),
        bool(getattr(attrs, "count_include_pad", False)),
    )


def max_pool(called: Called, before: Dims, after: Dims) -> Movement | None:
    return _pool(called, before).maximum(before)


def avg_pool(called: Called, before: Dims, after: Dims) -> Movement | None:
    return _pool(called, before).mean(before)


def pool_over_all(by_order: bool) -> MovementReader:
    """Global and adaptive pools, which pad nothing."""

    def read(called: Called, before: Dims, after: Dims) -> Movement:
        return Window(_spatial(called, before)[0], by_order=by_order)

    return read


def reduction(by_order: bool) -> MovementReader:
    """A mean or maximum over axes that are named, or over all but these; over all by ``None``."""

    def read(called: Called, before: Dims, after: Dims) -> Movement:
        attrs = called.attrs
        axes = None if attrs.axis is None else numbers(attrs.axis)
        if axes == ():  # Relay's type says that all are reduced, and its code reduces none
            raise ValueError("its list of axes is empty")
        exclude = bool(getattr(attrs, "exclude", False))
        return reduced(len(before), axes, bool(attrs.keepdims), by_order, exclude)

    return read


def resize(called: Called, before: Dims, after: Dims) -> Movement | None:
    """Interpolation whose weights add up to 1: not where it crops to a region of its own."""
    attrs = called.attrs
    if any(float(edge) != 0.0 for edge in getattr(attrs, "roi", None) or ()):
        return None
    mode = str(getattr(attrs, "coordinate_transformation_mode", "half_pixel"))
    if mode == "tf_crop_and_resize" or bool(getattr(attrs, "cubic_exclude", 0)):
        return None
    return Window(_spatial(called, before)[0])


def repeat(called: Called, before: Dims, after: Dims) -> Movement | None:
    axis = called.attrs.axis  # None repeats what is flattened before
    return None if axis is None else repeated(before, after, [int(axis)])
