"""Relay calls -> roles that affine maps may cross."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bnfx.passes.crossing import (
    Dims,
    Homogeneous,
    Identity,
    Movement,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)
from bnfx.passes.graph import Concat, Move, Node, Role
from bnfx.passes.lifting.ops import Pool, depth_to_space, spatial_axes
from bnfx.passes.relay.expressions import Expr, numbers, op_name, static
from bnfx.passes.tvm.layouts import transform_order

Reader = Callable[[Any, Dims, Dims], Movement | None]


def read_movement(expr: Expr, node: Node, before: Sequence[Node]) -> Role | None:
    """The role of a call that reads ``before``, or ``None`` if it has none."""
    name = op_name(expr) or ""
    if node.shape is None or not before or any(source.shape is None for source in before):
        return None
    if any((source.dtype, source.rank) != (node.dtype, before[0].rank) for source in before):
        return None
    if name == "concatenate":
        return Concat(int(expr.attrs.axis) % len(node.shape))
    reader = _READERS.get(name)
    if reader is None or before[0].shape is None:
        return None
    try:
        movement = reader(expr.attrs, before[0].shape, node.shape)
    except (ValueError, AttributeError):  # a layout that is not read, attributes of another TVM
        return None
    return None if movement is None else Move(movement)


def split_part(expr: Expr, index: int, before: Dims) -> Select | None:
    """What ``split(x, ...)[index]`` selects, where sizes are fixed."""
    axis = int(expr.attrs.axis) % len(before)
    size = before[axis]
    if not isinstance(size, int):
        return None
    sections = expr.attrs.indices_or_sections
    count = static(sections)
    if count is not None:
        step = size // count
        bounds = [step * part for part in range(count + 1)]
    else:
        bounds = [0, *numbers(sections), size]
    if not 0 <= bounds[index] <= bounds[index + 1] <= size:
        return None
    return Select(axis, bounds[index], bounds[index + 1])


def _identity(attrs: Any, before: Dims, after: Dims) -> Movement:
    return Identity()


def _homogeneous(attrs: Any, before: Dims, after: Dims) -> Movement:
    return Homogeneous()


def _reshape(attrs: Any, before: Dims, after: Dims) -> Movement:
    return Reshape()


def _transpose(attrs: Any, before: Dims, after: Dims) -> Movement:
    rank = len(before)
    order = numbers(attrs.axes) if attrs.axes else tuple(range(rank))[::-1]
    return Permute(tuple(axis % rank for axis in order))


def _layout_transform(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    order = transform_order(str(attrs.src_layout), str(attrs.dst_layout))
    return None if order is None else Permute(order)


def _spatial(attrs: Any, before: Dims) -> tuple[tuple[int, ...], bool]:
    """The axes of a pool or resize, and whether channels are last."""
    out_layout = str(getattr(attrs, "out_layout", ""))
    return spatial_axes(str(attrs.layout), out_layout, len(before))


def _over_all(by_order: bool) -> Reader:
    """Global and adaptive pools, which pad nothing."""

    def read(attrs: Any, before: Dims, after: Dims) -> Movement:
        return Window(_spatial(attrs, before)[0], by_order=by_order)

    return read


def _pool(attrs: Any, before: Dims) -> Pool:
    axes, last = _spatial(attrs, before)
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


def _max_pool(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    return _pool(attrs, before).maximum(before)


def _avg_pool(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    return _pool(attrs, before).mean(before)


def _reduce(by_order: bool) -> Reader:
    def read(attrs: Any, before: Dims, after: Dims) -> Movement | None:
        rank = len(before)
        axes = {axis % rank for axis in numbers(attrs.axis or ())}
        if attrs.exclude or not axes:  # none named: all
            axes = set(range(rank)) - axes
        return Window(tuple(sorted(axes)), keep=bool(attrs.keepdims), by_order=by_order)

    return read


def _resize(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    """Interpolation whose weights add up to 1: not where it crops to a region of its own."""
    roi = getattr(attrs, "roi", None)
    if roi and any(float(value) != 0.0 for value in roi):
        return None
    mode = str(getattr(attrs, "coordinate_transformation_mode", "half_pixel"))
    if mode == "tf_crop_and_resize" or bool(getattr(attrs, "cubic_exclude", 0)):
        return None
    return Window(_spatial(attrs, before)[0])


def _mirror_pad(attrs: Any, before: Dims, after: Dims) -> Movement:
    return Pad(_widths(attrs), None)


def pad_movement(attrs: Any, fill: float | None) -> Movement | None:
    """``nn.pad``; its fill is an operand, ``None`` if that is not known."""
    mode = str(attrs.pad_mode)
    if mode == "constant":
        return None if fill is None else Pad(_widths(attrs), fill)
    return Pad(_widths(attrs), None) if mode in ("edge", "reflect") else None


def _widths(attrs: Any) -> tuple[tuple[int, tuple[int, int]], ...]:
    pairs = [numbers(pair) for pair in attrs.pad_width]
    return tuple((axis, (a, b)) for axis, (a, b) in enumerate(pairs) if a or b)


def _strided_slice(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    """A slice along one axis, by steps of one."""
    if attrs.begin is None or attrs.end is None or str(attrs.slice_mode) not in ("end", "size"):
        return None
    steps = numbers(attrs.strides or ())
    changed = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    if any(step != 1 for step in steps) or len(changed) > 1:
        return None
    if not changed:
        return Identity()
    (axis,) = changed
    axes = list(numbers(attrs.axes)) if attrs.axes else list(range(len(attrs.begin)))
    size, count = before[axis], after[axis]
    position = [other % len(before) for other in axes].index(axis)
    if not isinstance(size, int) or not isinstance(count, int):
        return None
    start = int(attrs.begin[position])
    start = max(0, start + size if start < 0 else start)
    return Select(axis, start, start + count) if start + count <= size else None


def _depth_to_space(attrs: Any, before: Dims, after: Dims) -> Movement | None:
    if str(attrs.layout) != "NCHW":
        return None
    return depth_to_space(before, after, int(attrs.block_size), str(attrs.mode) == "CRD")


_READERS: dict[str, Reader] = {
    **dict.fromkeys(("copy", "annotation.stop_fusion", "nn.dropout"), _identity),
    **dict.fromkeys(("nn.relu", "nn.leaky_relu", "nn.prelu"), _homogeneous),
    **dict.fromkeys(("reshape", "nn.batch_flatten", "squeeze", "expand_dims"), _reshape),
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    **dict.fromkeys((f"nn.max_pool{n}d" for n in (1, 2, 3)), _max_pool),
    **dict.fromkeys((f"nn.avg_pool{n}d" for n in (1, 2, 3)), _avg_pool),
    **dict.fromkeys((f"nn.global_avg_pool{n}d" for n in (1, 2, 3)), _over_all(by_order=False)),
    **dict.fromkeys((f"nn.global_max_pool{n}d" for n in (1, 2, 3)), _over_all(by_order=True)),
    **dict.fromkeys((f"nn.adaptive_avg_pool{n}d" for n in (1, 2, 3)), _over_all(by_order=False)),
    **dict.fromkeys((f"nn.adaptive_max_pool{n}d" for n in (1, 2, 3)), _over_all(by_order=True)),
    "mean": _reduce(by_order=False),
    "max": _reduce(by_order=True),
    **dict.fromkeys(
        ("nn.upsampling", "nn.upsampling3d", "image.resize1d", "image.resize2d", "image.resize3d"),
        _resize,
    ),
    "nn.mirror_pad": _mirror_pad,
    "strided_slice": _strided_slice,
    "nn.depth_to_space": _depth_to_space,
}
