"""Normalised calls -> roles that affine maps may cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bnfx.passes.algebra import average
from bnfx.passes.crossing import (
    Chain,
    Dims,
    Homogeneous,
    Identity,
    Movement,
    Pad,
    Permute,
    Reshape,
    Window,
)
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.roles.selections import axis_of, getitem, narrow, numbers, select, slice_of
from bnfx.passes.graph import Concat, Move, Role


def read_movement(call: Call, before: Dims | None, after: Dims | None) -> Role | None:
    """The role of a call whose input and output have these shapes, or ``None`` if it has none.

    Where a shape is not known, a map could cross an op that does nothing, and no other.
    """
    if call.kind == "identity" or (call.kind == "dropout" and call.arguments["training"] is False):
        return Move(Identity())
    if call.kind == "relu":
        return Move(Homogeneous())
    reader = _READERS.get(call.kind)
    if reader is None or after is None:
        return None
    if call.kind == "cat":
        if not isinstance(call.arguments["dim"], int):
            return None
        return Concat(axis_of(call.arguments["dim"], len(after)))
    if before is None:
        return None
    movement = reader(call, before, after)
    return None if movement is None else Move(movement)


def _last(rank: int, count: int) -> tuple[int, ...]:
    return tuple(range(rank - count, rank))


def _reshape(call: Call, before: Dims, after: Dims) -> Movement:
    return Reshape()


def _permute(call: Call, before: Dims, after: Dims) -> Movement | None:
    dims = numbers(call.arguments["dims"], 1)
    if dims is None or len(dims) != len(before):
        return None
    return Permute(tuple(axis_of(dim, len(before)) for dim in dims))


def _transpose(call: Call, before: Dims, after: Dims) -> Movement | None:
    pair = numbers((call.arguments["dim0"], call.arguments["dim1"]), 1)
    if pair is None or not before:
        return None
    one, other = (axis_of(dim, len(before)) for dim in pair)
    order = list(range(len(before)))
    order[one], order[other] = order[other], order[one]
    return Permute(tuple(order))


def _movedim(call: Call, before: Dims, after: Dims) -> Movement | None:
    source = numbers(call.arguments["source"], 1)
    destination = numbers(call.arguments["destination"], 1)
    if source is None or destination is None or not before:
        return None
    rank = len(before)
    moved = {
        axis_of(to, rank): axis_of(axis, rank) for axis, to in zip(source, destination, strict=True)
    }
    rest = iter(sorted(set(range(rank)) - set(moved.values())))
    return Permute(tuple(moved[at] if at in moved else next(rest) for at in range(rank)))


def _t(call: Call, before: Dims, after: Dims) -> Movement:
    return Permute(tuple(reversed(range(len(before)))))  # of two axes at most


def _max_pool(call: Call, before: Dims, after: Dims) -> Movement | None:
    if call.arguments["return_indices"] is not False:
        return None
    return Window(_last(len(before), call.spatial), by_order=True)


def _avg_pool(call: Call, before: Dims, after: Dims) -> Movement | None:
    arguments, spatial = call.arguments, call.spatial
    kernel = numbers(arguments["kernel_size"], spatial)
    stride = numbers(arguments["stride"] or arguments["kernel_size"], spatial)
    padding = numbers(arguments["padding"], spatial)
    flags = arguments["ceil_mode"], arguments["count_include_pad"]
    if kernel is None or stride is None or padding is None or any(f not in (0, 1) for f in flags):
        return None
    if arguments.get("divisor_override") is not None:
        return None
    axes = _last(len(before), spatial)
    counts = bool(arguments["count_include_pad"]) and any(padding)
    channels = before[axes[0] - 1] if axes[0] > 0 else None
    convolution = None
    if isinstance(channels, int) and (counts or not any(padding)) and not arguments["ceil_mode"]:
        sides = tuple((pad, pad) for pad in padding)
        convolution = average(channels, kernel, stride, sides)
    return Window(axes, counts_padding=counts, convolution=convolution)


def _adaptive(by_order: bool) -> Callable[[Call, Dims, Dims], Movement | None]:
    def read(call: Call, before: Dims, after: Dims) -> Movement | None:
        if call.arguments.get("return_indices", False) is not False:
            return None
        return Window(_last(len(before), call.spatial), by_order=by_order)

    return read


def _reduce(by_order: bool) -> Callable[[Call, Dims, Dims], Movement | None]:
    def read(call: Call, before: Dims, after: Dims) -> Movement | None:
        dim, keep = call.arguments["dim"], call.arguments["keepdim"]
        if call.arguments.get("dtype") is not None or not isinstance(keep, (bool, int)):
            return None
        # No axis named is all axes named.
        dims = range(len(before)) if dim is None or dim in ((), []) else numbers(dim, 1)
        if dims is None or not before:
            return None
        axes = tuple(sorted({axis_of(axis, len(before)) for axis in dims}))
        return Window(axes, keep=bool(keep), by_order=by_order)

    return read


def _interpolate(call: Call, before: Dims, after: Dims) -> Movement | None:
    known = {"nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area"}
    if call.arguments["mode"] not in known:
        return None
    return Window(tuple(range(2, len(before))))


def _pad(call: Call, before: Dims, after: Dims) -> Movement | None:
    widths = numbers(call.arguments["pad"], 1)
    mode, value = call.arguments["mode"], call.arguments["value"]
    if widths is None or len(widths) % 2 or len(widths) > 2 * len(before):
        return None
    sides = {}
    for position in range(0, len(widths), 2):
        pair = widths[position], widths[position + 1]
        if any(pair):
            sides[len(before) - 1 - position // 2] = pair
    if mode == "constant":
        if not (value is None or isinstance(value, (int, float))):
            return None
        return Pad(tuple(sorted(sides.items())), float(value or 0.0))
    if mode not in ("reflect", "replicate", "circular"):
        return None
    return Pad(tuple(sorted(sides.items())), None)


def _shuffled(dims: Dims, order: Iterable[int], after: Dims) -> Chain:
    permuted = tuple(order)
    middle = tuple(dims[axis] for axis in permuted)
    return Chain(((Reshape(), dims), (Permute(permuted), middle), (Reshape(), after)))


def _channel_shuffle(call: Call, before: Dims, after: Dims) -> Movement | None:
    groups = call.arguments["factor"]
    if not isinstance(groups, int) or len(before) < 2 or not isinstance(before[1], int):
        return None
    dims = (before[0], groups, before[1] // groups, *before[2:])
    return _shuffled(dims, (0, 2, 1, *range(3, len(dims))), after)


def _pixel_shuffle(call: Call, before: Dims, after: Dims) -> Movement | None:
    factor = call.arguments["factor"]
    if not isinstance(factor, int) or len(before) != 4 or not isinstance(before[1], int):
        return None
    n, c, h, w = before
    assert isinstance(c, int)
    dims = (n, c // factor**2, factor, factor, h, w)
    return _shuffled(dims, (0, 1, 4, 2, 5, 3), after)


def _pixel_unshuffle(call: Call, before: Dims, after: Dims) -> Movement | None:
    factor = call.arguments["factor"]
    if not isinstance(factor, int) or len(before) != 4:
        return None
    n, c, _, _ = before
    dims = (n, c, after[2], factor, after[3], factor)
    return _shuffled(dims, (0, 1, 3, 5, 2, 4), after)


_READERS: dict[str, Callable[[Call, Dims, Dims], Movement | None]] = {
    "reshape": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "movedim": _movedim,
    "t": _t,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg": _adaptive(by_order=False),
    "adaptive_max": _adaptive(by_order=True),
    "mean": _reduce(by_order=False),
    "amax": _reduce(by_order=True),
    "interpolate": _interpolate,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "narrow": narrow,
    "select": select,
    "slice": slice_of,
    "getitem": getitem,
    "cat": _reshape,
}
