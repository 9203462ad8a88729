"""Layout strings, as TVM's IRs have them: ``NCHW``, ``NHWC``, ``OIHW``, ``NCHW4c``.

A letter names an axis. A lower-case letter with a number in front is a block of one: such layouts
are for kernels that were chosen already, and are not read.
"""

from __future__ import annotations

SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def channels_last(layout: str, spatial: int) -> bool:
    """Whether data of this layout have their channels at the end, rather than at axis 1.

    Raises:
        ValueError: for any other layout.
    """
    axes = SPATIAL.get(spatial)
    if axes is None:  # one with blocks has more axes
        raise ValueError(f"its data layout is {layout}, of {spatial + 2} axes")
    if layout == f"NC{axes}":
        return False
    if layout == f"N{axes}C":
        return True
    raise ValueError(f"its data layout is {layout}, neither NC{axes} nor N{axes}C")


def spatial_axes(layout: str, out_layout: str, rank: int) -> tuple[tuple[int, ...], bool]:
    """The axes of a pool or resize, and whether channels are last.

    Raises:
        ValueError: if it changes the layout, or the layout is not read.
    """
    if out_layout not in ("", layout):
        raise ValueError("it changes the layout")
    count = rank - 2
    last = channels_last(layout, count)
    return tuple(range(1, 1 + count) if last else range(2, 2 + count)), last


def kernel_order(layout: str, wanted: str) -> tuple[int, ...]:
    """The permutation that takes weights of ``layout`` to the axes ``wanted``.

    Raises:
        ValueError: if the two have different axes.
    """
    if sorted(layout) != sorted(wanted):
        raise ValueError(f"its kernel layout is {layout}, no permutation of {wanted}")
    return tuple(map(layout.index, wanted))


def transform_order(source: str, target: str) -> tuple[int, ...] | None:
    """``layout_transform`` as a permutation, or ``None`` if it splits or joins axes."""
    if not source.isupper() or sorted(source) != sorted(target):
        return None
    return tuple(map(source.index, target))


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes ``order``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))
