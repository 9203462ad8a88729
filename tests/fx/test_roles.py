"""What maps may cross, by the arguments of each call: what is computed has no role."""

from __future__ import annotations

from typing import Any

import pytest
from torch import fx

from bnfx.passes.crossing import (
    Chain,
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
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.calls.structure import STRUCTURE
from bnfx.passes.fx.roles.movements import read_movement
from bnfx.passes.graph import Concat, Move, Role

COMPUTED = fx.Graph().placeholder("computed")
X: Dims = (2, 3, 6, 6)
Row = tuple[str, dict[str, Any], Dims | None, Dims | None, Movement | Concat | None]


def _role(name: str, given: dict[str, Any], before: Dims | None, after: Dims | None) -> Role | None:
    """The arguments that are not given are those that torch has for them."""
    form = STRUCTURE[name]
    return read_movement(
        Call(form.kind, form.spatial, {**(form.signature or {}), **given}), before, after
    )


def _moved(name: str, before: Dims | None, after: Dims | None, **given: Any) -> Movement | None:
    role = _role(name, given, before, after)
    assert role is None or isinstance(role, Move)
    return None if role is None else role.movement


MOVEMENTS: list[Row] = [
    # What does nothing, or nearly so, needs no shapes.
    ("clone", {}, None, None, Identity()),
    ("dropout", {"training": False}, None, None, Identity()),
    ("dropout", {"training": True}, X, X, None),
    ("dropout", {"training": COMPUTED}, X, X, None),
    ("relu", {}, None, None, Homogeneous()),
    ("leaky_relu", {}, X, X, Homogeneous()),
    ("to", {}, X, X, None),
    # Anything else does.
    ("flatten", {}, X, (2, 108), Reshape()),
    ("flatten", {}, None, (2, 108), None),
    ("flatten", {}, X, None, None),
    ("cat", {"dim": 1}, None, X, Concat(1)),
    ("cat", {"dim": -1}, X, X, Concat(3)),
    ("cat", {"dim": COMPUTED}, X, X, None),
    ("cat", {"dim": 1}, X, None, None),
    # Axes in another order.
    ("permute", {"dims": (0, -1, 1, 2)}, X, (2, 6, 3, 6), Permute((0, 3, 1, 2))),
    ("permute", {"dims": (0, COMPUTED, 1, 2)}, X, (2, 6, 3, 6), None),
    ("permute", {"dims": COMPUTED}, X, (2, 6, 3, 6), None),
    ("permute", {"dims": (1, 0)}, X, (3, 2), None),
    ("transpose", {"dim0": 1, "dim1": -1}, X, (2, 6, 6, 3), Permute((0, 3, 2, 1))),
    ("transpose", {"dim0": COMPUTED, "dim1": 1}, X, (2, 6, 6, 3), None),
    ("transpose", {"dim0": 0, "dim1": COMPUTED}, X, (2, 6, 6, 3), None),
    ("transpose", {"dim0": 0, "dim1": 0}, (), (), None),
    ("movedim", {"source": 1, "destination": -1}, X, (2, 6, 6, 3), Permute((0, 2, 3, 1))),
    ("movedim", {"source": (0, 1), "destination": (1, 0)}, X, (3, 2, 6, 6), Permute((1, 0, 2, 3))),
    ("movedim", {"source": 1, "destination": COMPUTED}, X, X, None),
    ("movedim", {"source": COMPUTED, "destination": 1}, X, X, None),
    ("movedim", {"source": 0, "destination": 0}, (), (), None),
    ("t", {}, (2, 3), (3, 2), Permute((1, 0))),
    ("t", {}, (3,), (3,), Permute((0,))),
    # Means and maxima.
    ("max_pool2d", {"kernel_size": 2}, X, (2, 3, 3, 3), Window((2, 3), by_order=True)),
    ("max_pool1d", {"kernel_size": 2}, X[:3], (2, 3, 3), Window((2,), by_order=True)),
    ("max_pool2d", {"kernel_size": 2, "return_indices": True}, X, X, None),
    ("max_pool2d", {"kernel_size": 2, "return_indices": COMPUTED}, X, X, None),
    ("adaptive_avg_pool2d", {"output_size": 1}, X, (2, 3, 1, 1), Window((2, 3))),
    ("adaptive_max_pool1d", {}, X[:3], (2, 3, 1), Window((2,), by_order=True)),
    ("adaptive_max_pool2d", {"return_indices": True}, X, X, None),
    ("adaptive_max_pool2d", {"return_indices": COMPUTED}, X, X, None),
    ("mean", {"dim": (-1, 2)}, X, (2, 3), Window((2, 3), keep=False)),
    ("mean", {"dim": 1, "keepdim": True}, X, (2, 1, 6, 6), Window((1,))),
    ("mean", {"dim": (2,), "keepdim": 1}, X, (2, 3, 1, 6), Window((2,))),
    ("mean", {}, X, (), Window((0, 1, 2, 3), keep=False)),
    ("mean", {"dim": ()}, X, (), Window((0, 1, 2, 3), keep=False)),
    ("amax", {"dim": []}, X, (), Window((0, 1, 2, 3), keep=False, by_order=True)),
    ("amax", {"dim": 3}, X, (2, 3, 6), Window((3,), keep=False, by_order=True)),
    ("mean", {"dim": COMPUTED}, X, (2, 3, 6), None),
    ("mean", {"dim": (2, COMPUTED)}, X, (2, 3), None),
    ("mean", {"dim": 2, "keepdim": COMPUTED}, X, (2, 3, 6), None),
    ("mean", {"dim": 2, "dtype": "float64"}, X, (2, 3, 6), None),
    ("mean", {"dim": 0}, (), (), None),
    ("mean", {}, (), (), None),
    ("interpolate", {"mode": "bilinear"}, X, (2, 3, 9, 9), Window((2, 3))),
    ("interpolate", {"mode": "area"}, X[:3], (2, 3, 4), Window((2,))),
    ("interpolate", {"mode": "lanczos"}, X, (2, 3, 9, 9), None),
    ("interpolate", {"mode": COMPUTED}, X, (2, 3, 9, 9), None),
    # What stands beside the input.
    ("pad", {"pad": (1, 2)}, X, (2, 3, 6, 9), Pad(((3, (1, 2)),), 0.0)),
    ("pad", {"pad": [0, 0, 0, 1], "value": 2}, X, (2, 3, 7, 6), Pad(((2, (0, 1)),), 2.0)),
    ("pad", {"pad": (1, 2, 3, 4)}, X, (2, 3, 13, 9), Pad(((2, (3, 4)), (3, (1, 2))), 0.0)),
    ("pad", {"pad": (1, 1), "mode": "reflect"}, X, (2, 3, 6, 8), Pad(((3, (1, 1)),), None)),
    ("pad", {"pad": (1, 1), "mode": "circular"}, X, (2, 3, 6, 8), Pad(((3, (1, 1)),), None)),
    ("pad", {"pad": (1, 1), "mode": "mirror"}, X, (2, 3, 6, 8), None),
    ("pad", {"pad": (1, 1), "mode": COMPUTED}, X, (2, 3, 6, 8), None),
    ("pad", {"pad": (1, COMPUTED)}, X, (2, 3, 6, 8), None),
    ("pad", {"pad": (1, 1, 1)}, X, (2, 3, 6, 8), None),
    ("pad", {"pad": (1, 1)}, (6,), (8,), Pad(((0, (1, 1)),), 0.0)),
    ("pad", {"pad": (1, 1, 1, 1)}, (6,), (8,), None),
    ("pad", {"pad": (1, 1), "value": COMPUTED}, X, (2, 3, 6, 8), None),
    # Depth and space, where the sizes that a view in between needs are known.
    ("channel_shuffle", {"factor": COMPUTED}, X, X, None),
    ("channel_shuffle", {"factor": 1}, (3,), (3,), None),
    ("channel_shuffle", {"factor": 3}, (2, "s0", 6, 6), (2, "s0", 6, 6), None),
    ("pixel_shuffle", {"factor": COMPUTED}, (2, 4, 3, 3), (2, 1, 6, 6), None),
    ("pixel_shuffle", {"factor": 2}, (4, 3, 3), (1, 6, 6), None),
    ("pixel_shuffle", {"factor": 2}, (2, "s0", 3, 3), (2, "s1", 6, 6), None),
    ("pixel_unshuffle", {"factor": COMPUTED}, X, (2, 12, 3, 3), None),
    ("pixel_unshuffle", {"factor": 2}, X[1:], (12, 3, 3), None),
    # One part.
    ("narrow", {"dim": -1, "start": -3, "length": 2}, X, (2, 3, 6, 2), Select(3, 3, 5)),
    ("narrow", {"dim": 1, "start": 0, "length": 2}, X, (2, 2, 6, 6), Select(1, 0, 2)),
    ("narrow", {"dim": 1, "start": COMPUTED, "length": 2}, X, (2, 2, 6, 6), None),
    ("narrow", {"dim": 1, "start": 0, "length": 2}, (2, "s0"), (2, 2), None),
    ("narrow", {"dim": 0, "start": 0, "length": 0}, (), (), None),
    ("select", {"dim": -1, "index": -2}, X, X[:3], Select(3, 4, 5, keep=False)),
    ("select", {"dim": 1, "index": COMPUTED}, X, (2, 6, 6), None),
    ("select", {"dim": 0, "index": 0}, (), (), None),
    ("select", {"dim": 0, "index": 0}, ("s0", 2), (2,), None),
    ("select", {"dim": 0, "index": 0}, (1, 2), (2,), Select(0, 0, 1, keep=False)),
    ("slice", {"dim": -1, "start": 1, "end": 9}, X, (2, 3, 6, 5), Select(3, 1, 6)),
    ("slice", {"dim": 1, "step": 2}, X, (2, 2, 6, 6), Select(1, 0, 3, step=2)),
    ("slice", {"dim": 1}, X, X, Identity()),
    ("slice", {"dim": COMPUTED}, X, X, None),
    ("slice", {"dim": 1, "end": COMPUTED}, X, X, None),
    ("slice", {"dim": 0}, (), (), None),
]


@pytest.mark.parametrize("row", MOVEMENTS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_movements(row: Row) -> None:
    name, given, before, after, expected = row
    role = _role(name, given, before, after)
    assert (role.movement if isinstance(role, Move) else role) == expected


def test_depth_and_space() -> None:
    shuffled = Chain(
        (
            (Reshape(), ("s0", 3, 2, 5, 5)),
            (Permute((0, 2, 1, 3, 4)), ("s0", 2, 3, 5, 5)),
            (Reshape(), ("s0", 6, 5, 5)),
        )
    )
    open_batch: Dims = ("s0", 6, 5, 5)
    assert _moved("channel_shuffle", open_batch, open_batch, factor=3) == shuffled
    flat = _moved("channel_shuffle", (2, 6), (2, 6), factor=3)
    assert isinstance(flat, Chain)
    assert [dims for _, dims in flat.steps] == [(2, 3, 2), (2, 2, 3), (2, 6)]
    wider = _moved("pixel_shuffle", (2, 8, 3, 3), (2, 2, 6, 6), factor=2)
    assert isinstance(wider, Chain)
    assert [dims for _, dims in wider.steps][:2] == [(2, 2, 2, 2, 3, 3), (2, 2, 3, 2, 3, 2)]
    deeper = _moved("pixel_unshuffle", (2, 2, 6, 6), (2, 8, 3, 3), factor=2)
    assert isinstance(deeper, Chain)
    assert [dims for _, dims in deeper.steps][:2] == [(2, 2, 3, 2, 3, 2), (2, 2, 2, 2, 3, 3)]


def _mean(after: Dims = X, before: Dims = X, **given: Any) -> Window | None:
    found = _moved("avg_pool2d", before, after, kernel_size=3, **given)
    assert found is None or (isinstance(found, Window) and found.axes == (2, 3) and found.keep)
    return found


# Whether it counts zeros, and whether it is a convolution.
MEANS: list[tuple[dict[str, Any], tuple[bool, bool] | None]] = [
    ({}, (False, True)),
    ({"stride": ()}, (False, True)),
    ({"padding": 1}, (True, True)),
    ({"padding": (1, 0)}, (True, True)),
    ({"padding": 1, "count_include_pad": False}, (False, False)),
    ({"padding": (0, 1), "count_include_pad": False}, (False, False)),
    ({"ceil_mode": True}, (False, False)),
    ({"padding": 1, "ceil_mode": True}, (True, False)),
    ({"count_include_pad": False}, (False, True)),
    ({"before": (2, "s0", 6, 6)}, (False, False)),
    ({"before": ("s0", 3, 6, 6)}, (False, True)),
    ({"divisor_override": 2}, None),
    ({"divisor_override": COMPUTED}, None),
    ({"padding": COMPUTED}, None),
    ({"padding": (0, COMPUTED)}, None),
    ({"stride": COMPUTED}, None),
    ({"ceil_mode": COMPUTED}, None),
    ({"padding": 1, "count_include_pad": COMPUTED}, None),
]


@pytest.mark.parametrize(("given", "expected"), MEANS, ids=str)
def test_means_in_windows(given: dict[str, Any], expected: tuple[bool, bool] | None) -> None:
    found = _mean(**given)
    result = None if found is None else (found.counts_padding, found.convolution is not None)
    assert result == expected


def test_a_mean_as_a_convolution() -> None:
    found = _mean(padding=(1, 0), stride=(2, 1))
    assert found is not None
    conv = found.convolution
    assert conv is not None
    assert (conv.kernel, conv.stride, conv.padding) == ((3, 3), (2, 1), ((1, 1), (0, 0)))
    assert conv.groups == conv.out_channels == 3
    found = _mean()
    assert found is not None
    assert found.convolution is not None
    assert found.convolution.stride == (3, 3)
    assert _moved("avg_pool2d", X, X, kernel_size=COMPUTED, stride=1) is None
    without_channels = _moved("avg_pool2d", (6, 6), (2, 2), kernel_size=3)
    assert without_channels == Window((0, 1))


WHOLE = slice(None)
INDICES: list[tuple[Any, Dims, Movement | None]] = [
    (WHOLE, X, Identity()),
    (..., X, Identity()),
    ((slice(0, None, 1), ..., slice(0, 6)), X, Identity()),
    ((WHOLE, slice(1, None)), (2, 2, 6, 6), Select(1, 1, 3)),
    ((..., slice(4, 1)), (2, 3, 6, 0), Select(3, 4, 4)),
    ((..., 1), X[:3], Select(3, 1, 2, keep=False)),
    (-1, X[1:], Select(0, 1, 2, keep=False)),
    ((WHOLE, slice(None, None, 2)), (2, 2, 6, 6), Select(1, 0, 3, step=2)),
    (
        (0, slice(1, 2)),
        (1, 6, 6),
        Chain(((Select(1, 1, 2), (2, 1, 6, 6)), (Select(0, 0, 1, keep=False), (1, 6, 6)))),
    ),
    (None, (1, *X), Reshape()),
    (
        (WHOLE, 0, None),
        (2, 1, 6, 6),
        Chain(((Select(1, 0, 1, keep=False), (2, 6, 6)), (Reshape(), (2, 1, 6, 6)))),
    ),
    (
        (..., 0, None),
        (2, 3, 6, 1),
        Chain(((Select(3, 0, 1, keep=False), (2, 3, 6)), (Reshape(), (2, 3, 6, 1)))),
    ),
    (
        (WHOLE, slice(0, 1), None),
        (2, 1, 1, 6, 6),
        Chain(((Select(1, 0, 1), (2, 1, 6, 6)), (Reshape(), (2, 1, 1, 6, 6)))),
    ),
    # Not what torch makes of the index.
    ((WHOLE, slice(1, None)), (2, 3, 6, 6), None),
    (COMPUTED, X, None),
    ((WHOLE, COMPUTED), X, None),
    (slice(COMPUTED, None), X, None),
    (slice(None, COMPUTED), X, None),
    (slice(None, None, COMPUTED), X, None),
    (slice(None, None, -1), (0, *X[1:]), None),
    ([0, 1], X, None),
    (([0, 1], WHOLE), X, None),
    (True, (1, *X), None),
    ((0, 0, 0, 0, 0), (), None),
    # torch takes several ellipses, at times.
    ((..., ..., WHOLE), X, None),
    ((..., 0, ...), X[:3], None),
]


@pytest.mark.parametrize(("index", "after", "expected"), INDICES, ids=str)
def test_indexing(index: Any, after: Dims, expected: Movement | None) -> None:
    assert _moved("getitem", X, after, index=index) == expected


def test_indexing_of_open_sizes() -> None:
    before: Dims = ("s0", 3)
    assert _moved("getitem", before, ("s0", 2), index=(WHOLE, slice(2))) == Select(1, 0, 2)
    assert _moved("getitem", before, (2, 3), index=slice(2)) is None
    assert _moved("getitem", before, (3,), index=0) is None
    new = _moved("getitem", before, ("s0", 1, 3), index=(WHOLE, None))
    assert new == Reshape()
