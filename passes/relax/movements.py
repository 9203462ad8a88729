"""Relax calls -> roles that affine maps may cross."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from bnfx.passes.relax.compat import Expr, number
from bnfx.passes.relax.expressions import Value, numbers
from bnfx.passes.tvm.layouts import channels_last

Reader = Callable[[Value, Dims, Dims], Movement | None]


def read_movement(value: Value, node: Node, before: Sequence[Node]) -> Role | None:
    """The role of a call that reads ``before``, or ``None`` if it has none."""
    if node.shape is None or not before or any(source.shape is None for source in before):
        return None
    if any((source.dtype, source.rank) != (node.dtype, before[0].rank) for source in before):
        return None
    if value.op == "concat":
        axis = value.attrs.axis  # None joins what is flattened before
        return None if axis is None else Concat(int(axis) % len(node.shape))
    reader = _READERS.get(value.op or "")
    if reader is None or before[0].shape is None:
        return None
    try:
        movement = reader(value, before[0].shape, node.shape)
    except (ValueError, AttributeError):  # a layout that is not read, attributes of another TVM
        return None
    return None if movement is None else Move(movement)


def split_part(value: Value, index: int, parts: Sequence[Dims | None]) -> Select | None:
    """What ``split(x, ...)[index]`` selects, where sizes are fixed.

    Args:
        parts: the shapes of all parts.
    """
    sizes: list[int] = []
    for part in parts:
        if part is None or not isinstance(size := part[int(value.attrs.axis) % len(part)], int):
            return None
        sizes.append(size)
    start, part = sum(sizes[:index]), parts[index]
    assert part is not None
    return Select(int(value.attrs.axis) % len(part), start, start + sizes[index])


def _identity(value: Value, before: Dims, after: Dims) -> Movement:
    return Identity()


def _homogeneous(value: Value, before: Dims, after: Dims) -> Movement:
    return Homogeneous()


def _reshape(value: Value, before: Dims, after: Dims) -> Movement:
    return Reshape()


def _permute_dims(value: Value, before: Dims, after: Dims) -> Movement:
    rank, axes = len(before), value.attrs.axes
    order = tuple(range(rank))[::-1] if axes is None else numbers(axes)
    return Permute(tuple(axis % rank for axis in order))


def _layout_transform(value: Value, before: Dims, after: Dims) -> Movement | None:
    """Where its index map only permutes the axes."""
    index_map = value.attrs.index_map
    names = list(index_map.initial_indices)
    order = [
        axis
        for index in index_map.final_indices
        for axis, name in enumerate(names)
        if name.same_as(index)
    ]
    permutes = sorted(order) == list(range(len(before))) and len(after) == len(before)
    return Permute(tuple(order)) if permutes else None


def _pool(value: Value, before: Dims) -> Pool:
    attrs = value.attrs
    axes, last = spatial_axes(str(attrs.layout), str(attrs.out_layout), len(before))
    return Pool(
        axes,
        last,
        numbers(attrs.pool_size),
        numbers(attrs.strides),
        numbers(attrs.padding),
        numbers(attrs.dilation),
        bool(attrs.ceil_mode),
        bool(attrs.count_include_pad),
    )


def _max_pool(value: Value, before: Dims, after: Dims) -> Movement | None:
    return _pool(value, before).maximum(before)


def _avg_pool(value: Value, before: Dims, after: Dims) -> Movement | None:
    return _pool(value, before).mean(before)


def _adaptive(value: Value, before: Dims, after: Dims) -> Movement:
    attrs = value.attrs
    return Window(spatial_axes(str(attrs.layout), str(attrs.out_layout), len(before))[0])


def _reduce(by_order: bool) -> Reader:
    def read(value: Value, before: Dims, after: Dims) -> Movement | None:
        rank, named = len(before), value.attrs.axis
        axes = range(rank) if named is None else sorted({a % rank for a in numbers(named)})
        return Window(tuple(axes), keep=bool(value.attrs.keepdims), by_order=by_order)

    return read


def _resize(value: Value, before: Dims, after: Dims) -> Movement | None:
    """Interpolation whose weights add up to 1: not where it crops to a region of its own."""
    attrs = value.attrs
    if any(float(edge) != 0.0 for edge in attrs.roi) or bool(attrs.cubic_exclude):
        return None
    if str(attrs.coordinate_transformation_mode) == "tf_crop_and_resize":
        return None
    count = len(before) - 2
    last = channels_last(str(attrs.layout), count)
    return Window(tuple(range(1, 1 + count) if last else range(2, 2 + count)))


def _pad(value: Value, before: Dims, after: Dims) -> Movement | None:
    attrs, widths = value.attrs, numbers(value.attrs.pad_width)
    pairs = enumerate(zip(widths[::2], widths[1::2], strict=True))
    sides = tuple((axis, pair) for axis, pair in pairs if any(pair))
    mode = str(attrs.pad_mode)
    if mode == "constant":
        return Pad(sides, float(attrs.pad_value))
    return Pad(sides, None) if mode in ("reflect", "replicate", "circular") else None


def _strided_slice(value: Value, before: Dims, after: Dims) -> Movement | None:
    """A slice along one axis, by steps of one."""
    axes, begins, _, *steps = (_listed(arg.expr) for arg in value.args[1:])
    if axes is None or begins is None or any(step is None for step in steps):
        return None
    if any(step != 1 for some in steps for step in some or ()):
        return None
    changed = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    if not changed:
        return Identity()
    axis, *others = changed
    size, count = before[axis], after[axis]
    if others or not isinstance(size, int) or not isinstance(count, int):
        return None
    start = begins[[other % len(before) for other in axes].index(axis)]
    start = max(0, start + size if start < 0 else start)
    return Select(axis, start, start + count) if start + count <= size else None


def _listed(operand: Expr) -> list[int] | None:
    """An operand that is a tuple of numbers."""
    found = [number(field) for field in getattr(operand, "fields", (operand,))]
    integers = [value for value in found if isinstance(value, int)]
    return integers if len(integers) == len(found) else None


def _pixel_shuffle(value: Value, before: Dims, after: Dims) -> Movement | None:
    return depth_to_space(before, after, int(value.attrs.upscale_factor), columns_first=True)


_READERS: dict[str, Reader] = {
    "nn.dropout": _identity,  # in inference, which is all that TVM compiles
    **dict.fromkeys(("nn.relu", "nn.leakyrelu", "nn.prelu"), _homogeneous),
    **dict.fromkeys(("reshape", "flatten", "nn.batch_flatten", "squeeze", "expand_dims"), _reshape),
    "permute_dims": _permute_dims,
    "layout_transform": _layout_transform,
    **dict.fromkeys((f"nn.max_pool{n}d" for n in (1, 2, 3)), _max_pool),
    **dict.fromkeys((f"nn.avg_pool{n}d" for n in (1, 2, 3)), _avg_pool),
    **dict.fromkeys((f"nn.adaptive_avg_pool{n}d" for n in (1, 2, 3)), _adaptive),
    "mean": _reduce(by_order=False),
    "max": _reduce(by_order=True),
    **dict.fromkeys(("image.resize2d", "image.resize3d"), _resize),
    "nn.pad": _pad,
    "strided_slice": _strided_slice,
    "nn.pixel_shuffle": _pixel_shuffle,
}
