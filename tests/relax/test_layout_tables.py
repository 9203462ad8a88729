"""Layouts, and convolutions as they are written: what is not read is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bnfx.passes.algebra import Conv, ConvTranspose, Source
from bnfx.passes.tvm.layouts import (
    channels_last,
    inverse,
    kernel_order,
    spatial_axes,
    transform_order,
)
from bnfx.passes.tvm.weight_layouts import Written, read_convolution, read_sides
from bnfx.passes.values import Values

LAYOUTS: list[tuple[str, int, bool | None]] = [
    ("NCW", 1, False),
    ("NWC", 1, True),
    ("NCHW", 2, False),
    ("NHWC", 2, True),
    ("NCDHW", 3, False),
    ("NDHWC", 3, True),
    ("NHCW", 2, None),
    ("HWNC", 2, None),
    ("NCHW", 3, None),
    ("NCHW8c", 3, None),  # what has blocks has more axes than there are letters for
    ("NCDHW8c", 4, None),
    ("NC", 0, None),
]


@pytest.mark.parametrize(("layout", "spatial", "last"), LAYOUTS)
def test_channels_are_first_or_last(layout: str, spatial: int, last: bool | None) -> None:
    rank, axes = spatial + 2, tuple(range(1 if last else 2, spatial + (1 if last else 2)))
    if last is None:
        why = "neither N" if 1 <= spatial <= 3 else f"of {rank} axes"
        with pytest.raises(ValueError, match=f"its data layout is {layout}, {why}"):
            channels_last(layout, spatial)
        with pytest.raises(ValueError, match=f"its data layout is {layout}, {why}"):
            spatial_axes(layout, "", rank)
        return
    assert channels_last(layout, spatial) is last
    assert spatial_axes(layout, "", rank) == spatial_axes(layout, layout, rank) == (axes, last)
    with pytest.raises(ValueError, match="changes the layout"):
        spatial_axes(layout, layout[::-1], rank)


def test_orders() -> None:
    assert kernel_order("HWIO", "OIHW") == (3, 2, 0, 1)
    with pytest.raises(ValueError, match="its kernel layout is OIHW4o, no permutation of OIHW"):
        kernel_order("OIHW4o", "OIHW")
    assert transform_order("NCHW", "NHWC") == (0, 2, 3, 1)
    for source, target in (("NCHW", "NCHW4c"), ("NCHW4c", "NCHW4c"), ("NCHWc", "NcHWC")):
        assert transform_order(source, target) is None
    assert transform_order("NCHW", "NCH") is None
    assert inverse((2, 0, 1, 3)) == (1, 2, 0, 3)


def test_sides() -> None:
    """All befores, then all afters; or fewer where they are the same."""
    assert read_sides((1,), 1) == ((1, 1),)
    assert read_sides((1,), 2) == ((1, 1), (1, 1))
    assert read_sides((1, 2), 1) == ((1, 2),)
    assert read_sides((1, 2), 2) == ((1, 1), (2, 2))
    assert read_sides([1, 2, 3, 4], 2) == ((1, 3), (2, 4))
    assert read_sides((1, 2, 3, 4, 5, 6), 3) == ((1, 4), (2, 5), (3, 6))
    for padding in ((), (1, 2, 3), (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match="its padding is"):
            read_sides(padding, 2)


PLAIN = Written("NCHW", "OIHW", "", (1, 2), (0, 1, 2, 3), (2, 1), 1)
TRANSPOSED = replace(PLAIN, kernel_layout="IOHW", output_padding=(0, 1))
X = (2, 4, 9, 9)


def _weight(*shape: int) -> Source:
    return Source("weight", shape, "float64")


def test_a_convolution_is_read() -> None:
    """Whatever the layouts; its weight goes back to where it came from."""
    weight = np.random.default_rng(0).normal(size=(3, 5, 6, 4))
    values = Values(lambda source: weight, np.zeros(()))
    written = replace(PLAIN, data_layout="NHWC", kernel_layout="HWOI", out_layout="NHWC")
    conv, stored = read_convolution(written, _weight(3, 5, 6, 4), (2, 9, 9, 4))
    assert isinstance(conv, Conv)
    assert (conv.in_channels, conv.out_channels, conv.channels_last) == (4, 6, True)
    assert (conv.stride, conv.padding, conv.dilation) == ((1, 2), ((0, 2), (1, 3)), (2, 1))
    assert np.array_equal(values.exact(conv.weight), weight.transpose(2, 3, 0, 1))
    assert np.array_equal(values.exact(stored.weight(conv.weight)), weight)


def test_a_transposed_convolution_is_read() -> None:
    written = replace(TRANSPOSED, groups=2)
    conv, stored = read_convolution(written, _weight(4, 3, 3, 3), X)
    assert isinstance(conv, ConvTranspose)
    assert (conv.in_channels, conv.out_channels, conv.output_padding) == (4, 6, (0, 1))
    assert (conv.groups, conv.channels_last) == (2, False)
    assert stored.shape == (4, 3, 3, 3)


def test_a_depthwise_kernel_has_its_multiplier_in_either_place() -> None:
    depthwise = replace(PLAIN, groups=4)
    for shape in ((4, 3, 3, 3), (12, 1, 3, 3)):
        conv, stored = read_convolution(depthwise, _weight(*shape), X)
        assert (conv.in_channels, conv.out_channels) == (4, 12)
        assert conv.weight.shape == (12, 1, 3, 3)
        assert stored.shape == shape


REFUSED: dict[str, tuple[Written, tuple[int, ...], str]] = {
    "another layout": (replace(PLAIN, out_layout="NHWC"), (6, 4, 3, 3), "takes NCHW and gives"),
    "data in blocks": (replace(PLAIN, data_layout="NCHW2c"), (6, 4, 3, 3), "data layout"),
    "a kernel in blocks": (replace(PLAIN, kernel_layout="OIHW2o"), (6, 4, 3, 3), "kernel layout"),
    "a kernel of a transposed": (replace(PLAIN, kernel_layout="IOW"), (6, 4, 3, 3), "kernel"),
    "other channels": (PLAIN, (6, 3, 3, 3), r"\(6, 3, 3, 3\) on 4 channels in 1 groups"),
    "other groups": (replace(PLAIN, groups=4), (8, 2, 3, 3), "on 4 channels in 4 groups"),
    "groups of others": (replace(PLAIN, groups=2), (2, 4, 3, 3), "on 4 channels in 2 groups"),
    "no one padding": (replace(PLAIN, padding=(1, 2, 3)), (6, 4, 3, 3), "its padding"),
    "transposed, others": (TRANSPOSED, (3, 6, 3, 3), "on 4 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_convolutions_are_refused(name: str) -> None:
    written, shape, why = REFUSED[name]
    with pytest.raises(ValueError, match=why):
        read_convolution(written, _weight(*shape), X)


def test_open_sizes() -> None:
    """Channels must be known; sizes need not."""
    open_sizes: Any = ("n", 4, "h", "w")
    assert read_convolution(PLAIN, _weight(6, 4, 3, 3), open_sizes)[0].in_channels == 4
    with pytest.raises(ValueError, match="on c channels"):
        read_convolution(PLAIN, _weight(6, 4, 3, 3), ("n", "c", 9, 9))
