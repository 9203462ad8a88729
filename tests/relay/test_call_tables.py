"""What maps may cross and which operators are read, by the attributes of each call of Relay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import Expr, Make, tensor
from lifted import lifted, role_of
from tvm import relay

from bnfx.passes.algebra import Dense
from bnfx.passes.crossing import (
    Dims,
    Homogeneous,
    Identity,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)
from bnfx.passes.graph import Concat, Linear, Opaque
from bnfx.passes.lifting.shuffles import depth_to_space, space_to_depth
from bnfx.passes.relay.tables import RELAY
from bnfx.passes.tvm.dialect import Called

X: Dims = (2, 8, 6, 6)
SLICE = {"begin": (0, 2), "end": (2, 5), "strides": (1,), "axes": None, "slice_mode": "end"}
SHUFFLE = {"block_size": 2, "layout": "NCHW", "mode": "DCR"}
Row = tuple[str, dict[str, Any], Dims, Any]
# Of ``X``: its result's shape, and what the call does.
ROWS: list[Row] = [
    ("copy", {}, X, Identity()),
    ("annotation.stop_fusion", {}, X, Identity()),
    ("nn.prelu", {"axis": 1}, X, Homogeneous()),
    ("squeeze", {"axis": None}, X, Reshape()),
    ("nn.mirror_pad", {"pad_width": ((0, 0), (1, 0), (0, 2), (0, 0))}, (2, 9, 8, 6),
     Pad(((1, (1, 0)), (2, (0, 2))), None)),
    ("nn.pad", {"pad_width": ((0, 0), (0, 1)), "pad_mode": "edge"}, X, Pad(((1, (0, 1)),), None)),
    ("nn.pad", {"pad_width": ((0, 0), (0, 1)), "pad_mode": "constant"}, X, None),
    ("nn.pad", {"pad_width": ((0, 0), (0, 1)), "pad_mode": "other"}, X, None),
    # Slices.
    ("strided_slice", SLICE, (2, 3, 6, 6), Select(1, 2, 5)),
    ("strided_slice", {**SLICE, "slice_mode": "size"}, (2, 5, 6, 6), Select(1, 2, 7)),
    ("strided_slice", {**SLICE, "slice_mode": "other"}, (2, 3, 6, 6), None),
    ("strided_slice", {**SLICE, "strides": (1, 2)}, (2, 3, 6, 6), None),
    ("strided_slice", {**SLICE, "begin": (3,), "axes": (-1,)}, (2, 8, 6, 2), Select(3, 3, 5)),
    ("strided_slice", {**SLICE, "begin": (3,), "axes": (2,)}, (2, 8, 6, 2), None),
    ("strided_slice", {**SLICE, "begin": (0,)}, X, Identity()),
    # Depth and space.
    ("nn.depth_to_space", SHUFFLE, (2, 2, 12, 12),
     depth_to_space(X, (2, 2, 12, 12), 2, False, False)),
    *(
        ("nn.depth_to_space", {**SHUFFLE, "mode": mode}, (2, 2, 12, 12),
         depth_to_space(X, (2, 2, 12, 12), 2, True, False))
        for mode in ("CRD", "CDR")
    ),
    ("nn.depth_to_space", {**SHUFFLE, "mode": "crd"}, (2, 2, 12, 12), None),
    ("nn.depth_to_space", {**SHUFFLE, "layout": "NHWC", "block_size": 1}, X,
     depth_to_space(X, X, 1, False, last=True)),
    ("nn.space_to_depth", SHUFFLE, (2, 32, 3, 3),
     space_to_depth(X, (2, 32, 3, 3), 2, False, False)),
    ("nn.space_to_depth", {**SHUFFLE, "layout": "NHWC"}, (2, 4, 3, 24),
     space_to_depth(X, (2, 4, 3, 24), 2, False, last=True)),
    # Again and again.
    ("tile", {"reps": (2, 1, 1, 3)}, (4, 8, 6, 18), Window((0, 3))),
    ("tile", {"reps": (2,)}, (2, 8, 6, 12), Window((3,))),
    ("tile", {"reps": (2, 1, 1, 1, 1)}, (2, *X), None),
    ("repeat", {"axis": -2}, (2, 8, 12, 6), Window((2,))),
    # By order or by mean.
    *(
        (f"nn.{kind}_{how}_pool{n}d", {"layout": layout}, (2, 8, *(1,) * n),
         Window(tuple(range(2, 2 + n)), by_order=how == "max"))
        for kind in ("global", "adaptive")
        for how in ("avg", "max")
        for n, layout in ((1, "NCW"), (2, "NCHW"), (3, "NCDHW"))
    ),
    ("mean", {"axis": (2,), "keepdims": 1, "exclude": 0}, (2, 8, 1, 6), Window((2,))),
    ("max", {"axis": (2,), "keepdims": 1, "exclude": 1}, (1, 1, 6, 1),
     Window((0, 1, 3), by_order=True)),
    # Without attributes of their own.
    ("layout_transform", {"src_layout": "NCHW", "dst_layout": "NHWC"}, (2, 6, 6, 8),
     Permute((0, 2, 3, 1))),
]  # fmt: skip


def _called(op: str, attrs: dict[str, Any]) -> Called:
    value: Any = SimpleNamespace(op=op, attrs=SimpleNamespace(**attrs))
    return Called(value, lambda position: None)


def test_what_maps_may_cross() -> None:
    for op, attrs, after, expected in ROWS:
        before = (2, 8, *(6,) * (len(after) - 2)) if "pool" in op else X
        found = RELAY.movements[op](_called(op, attrs), before, after)
        assert found == expected, (op, attrs)


@pytest.mark.parametrize("layout", ["NCHW4c", "HWCN"])
@pytest.mark.parametrize("op", ["nn.depth_to_space", "nn.space_to_depth"])
def test_layouts_of_blocks(op: str, layout: str) -> None:
    with pytest.raises(ValueError, match=f"its layout is {layout}"):
        RELAY.movements[op](_called(op, {**SHUFFLE, "layout": layout}), X, X)


def _input(make: Make) -> Expr:
    return make.input(2, 8, 6, 6)


def test_what_a_pad_adds() -> None:
    """Is an operand: one number, which is known."""

    def padded(fill: Any) -> Any:
        return role_of(lambda m: relay.nn.pad(_input(m), ((0, 0), (1, 0)) * 2, pad_value=fill))

    assert padded(1.5) == Pad(((1, (1, 0)), (3, (1, 0))), 1.5)
    assert isinstance(padded(relay.var("fill", shape=(), dtype="float64")), Opaque)
    assert isinstance(padded(tensor(np.zeros(2))), Opaque)


def test_calls_of_relay() -> None:
    def mean(**options: Any) -> Any:
        return role_of(lambda make: relay.mean(_input(make), keepdims=True, **options))

    assert mean(axis=None) == Window((0, 1, 2, 3))
    assert mean(axis=[1, 2]) == Window((1, 2))
    assert mean(axis=[1, 2], exclude=True) == Window((0, 3))
    assert isinstance(mean(axis=[]), Opaque)  # all, by its type; none, in its code
    joined = role_of(lambda make: relay.concatenate([_input(make)] * 2, -3))
    assert joined == Concat(1)


NUMBERS = np.arange(12.0).reshape(2, 1, 6)
BLOCKS = np.arange(16.0).reshape(1, 4, 2, 2)
COMPUTED: list[tuple[Any, Any, Any]] = [
    (NUMBERS, lambda x: relay.expand_dims(x, 0), NUMBERS[None]),
    (NUMBERS, lambda x: relay.expand_dims(x, 1), NUMBERS[:, None]),
    (NUMBERS, lambda x: relay.expand_dims(x, -1, 2), NUMBERS[..., None, None]),
    (NUMBERS, lambda x: relay.expand_dims(x, -2), NUMBERS[..., None, :]),
    (NUMBERS, lambda x: relay.squeeze(x), NUMBERS[:, 0]),
    (BLOCKS[:, :1], lambda x: relay.squeeze(x, [0]), BLOCKS[0, :1]),
    (NUMBERS, lambda x: relay.transpose(x, (-1, 0, 1)), NUMBERS.transpose(2, 0, 1)),
    (NUMBERS, relay.transpose, NUMBERS.T),
    (BLOCKS, lambda x: relay.layout_transform(x, "NCHW", "NHWC"), BLOCKS.transpose(0, 2, 3, 1)),
    (BLOCKS, lambda x: relay.layout_transform(x, "NCHW", "NCHW2c"), None),
    (NUMBERS, lambda x: relay.reshape(x, (-1, 4)), NUMBERS.reshape(3, 4)),
    (NUMBERS, relay.nn.batch_flatten, NUMBERS.reshape(2, 6)),
    (NUMBERS, lambda x: relay.cast(x, "float32"), NUMBERS.astype("float32")),
    (NUMBERS, lambda x: relay.cast(x, "int32"), None),
    (NUMBERS, relay.copy, NUMBERS),
    (NUMBERS, lambda x: relay.zeros((2, 1), "float64") + relay.ones((2, 1), "float64"),
     np.ones((2, 1))),
    (NUMBERS, relay.sin, None),
]  # fmt: skip


@pytest.mark.parametrize(("numbers", "call", "expected"), COMPUTED)
def test_what_is_computed_from_constants(numbers: Any, call: Any, expected: Any) -> None:
    flow = lifted(lambda make: call(tensor(numbers)))
    found = flow.constants.value(flow.flow.result)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_blocks_are_not_computed() -> None:
    value = _called("", {"src_layout": "NCHW", "dst_layout": "NCHW2c"}).value
    assert RELAY.computations["layout_transform"].run(value, (), "float64", BLOCKS) is None


def _product(op: Any, x: tuple[int, ...], weight: tuple[int, ...], **options: Any) -> Any:
    flow = lifted(lambda make: op(make.input(*x), make.constant(*weight), **options))
    node = flow.nodes[flow.flow.result]
    if isinstance(node.role, Linear):
        assert isinstance(node.role.operator, Dense)
        return node.role.operator.weight.shape
    return node.refusals[0].reason


def test_products() -> None:
    matmul, batched = relay.nn.matmul, relay.nn.batch_matmul
    assert _product(relay.nn.dense, (2, 4), (6, 4)) == (6, 4)
    assert _product(matmul, (2, 4), (4, 6)) == (6, 4)
    assert _product(matmul, (2, 4), (6, 4), transpose_b=True) == (6, 4)
    assert _product(batched, (2, 3, 4), (1, 6, 4)) == (6, 4)
    assert _product(batched, (2, 3, 4), (1, 4, 6), transpose_b=False) == (6, 4)
    for op, x in ((matmul, (4, 2)), (batched, (1, 4, 2))):
        weight = (*x[:-2], 4, 6)
        flipped = {"transpose_a": True, "transpose_b": False}
        assert _product(op, x, weight, **flipped) == "its data operand is transposed"


def test_transposed_kernels() -> None:
    """Whose layout was called OIHW once, when it was IOHW."""

    def read(layout: str, *weight: int) -> Any:
        flow = lifted(
            lambda make: relay.nn.conv2d_transpose(
                make.input(2, 4, 5, 5),
                make.constant(*weight),
                channels=8,
                kernel_size=(3, 3),
                kernel_layout=layout,
            )
        )
        node = flow.nodes[flow.flow.result]
        return node.role if isinstance(node.role, Linear) else node.refusals[0].reason

    assert read("IOHW", 4, 8, 3, 3).operator.weight.shape == (4, 8, 3, 3)
    assert read("OIHW", 8, 4, 3, 3) == "its kernel layout OIHW depends on TVM's version"
