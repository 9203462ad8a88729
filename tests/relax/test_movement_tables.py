"""What maps may cross, by the attributes of each call: of what is not read, nothing is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tvm
from relax.lifted import role_of

from bnfx.passes.algebra import average
from bnfx.passes.crossing import (
    Chain,
    Dims,
    Homogeneous,
    Identity,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)
from bnfx.passes.graph import Concat, Move, Node, Opaque
from bnfx.passes.lifting.shuffles import depth_to_space
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.tvm import movements
from bnfx.passes.tvm.dialect import Called
from bnfx.passes.tvm.movements import read_movement

X: Dims = (2, 4, 6, 6)
LAST: Dims = (2, 6, 6, 4)


def _called(op: str, attrs: dict[str, Any]) -> Called:
    value: Any = SimpleNamespace(op=op, attrs=SimpleNamespace(**attrs))
    return Called(value, lambda position: None)


def _node(shape: Dims | None, dtype: str | None = "float32", rank: int | None = None) -> Node:
    known = len(shape) if shape is not None else rank
    return Node("node", Opaque(), [], rank=known, dtype=dtype, shape=shape)


def _role(op: str, attrs: dict[str, Any], node: Node, *before: Node) -> Any:
    role = read_movement(_called(op, attrs), node, before, RELAX)
    return role.movement if isinstance(role, Move) else role


POOL = {
    "layout": "NCHW",
    "out_layout": "NCHW",
    "pool_size": (2, 3),
    "strides": (1, 2),
    "padding": (0, 0, 0, 0),
    "dilation": (1, 1),
    "ceil_mode": False,
    "count_include_pad": False,
}
RESIZE = {"layout": "NCHW", "roi": [0.0] * 4, "coordinate_transformation_mode": "half_pixel"}
PLAIN_MEAN = average(4, (2, 3), (1, 2), ((0, 0), (0, 0)))
Row = tuple[str, dict[str, Any], Dims, Dims, Any]
ROWS: list[Row] = [
    ("nn.relu", {}, X, X, Homogeneous()),
    ("nn.dropout", {}, X, X, Identity()),
    ("flatten", {}, X, (288,), Reshape()),
    ("sigmoid", {}, X, X, None),
    # Axes in another order.
    ("permute_dims", {"axes": (0, -1, 1, 2)}, X, (2, 6, 4, 6), Permute((0, 3, 1, 2))),
    ("permute_dims", {"axes": None}, X, (6, 6, 4, 2), Permute((3, 2, 1, 0))),
    # Pools.
    ("nn.max_pool2d", POOL, X, X, Window((2, 3), by_order=True)),
    ("nn.max_pool2d", {**POOL, "layout": "NHWC", "out_layout": ""}, LAST, LAST,
     Window((1, 2), by_order=True)),
    ("nn.max_pool2d", {**POOL, "out_layout": "NHWC"}, X, LAST, None),
    ("nn.max_pool2d", {**POOL, "layout": "NCHW4c"}, (2, 1, 6, 6, 4), (2, 1, 6, 6, 4), None),
    ("nn.max_pool3d", {**POOL, "layout": "NCDHW4c"}, (2, 1, 6, 6, 6, 4), (2, 1, 6, 6, 6, 4), None),
    ("nn.max_pool2d", {**POOL, "padding": (2, 0, 0, 0)}, X, X, None),
    ("nn.max_pool2d", {"layout": "NCHW"}, X, X, None),  # without its other attributes
    ("nn.avg_pool2d", POOL, X, X, Window((2, 3), convolution=PLAIN_MEAN)),
    ("nn.avg_pool2d", {**POOL, "ceil_mode": True}, X, X, Window((2, 3))),
    ("nn.avg_pool2d", {**POOL, "dilation": (1, 2)}, X, X, Window((2, 3))),
    ("nn.avg_pool2d", {**POOL, "padding": (1, 1, 1, 1)}, X, X, Window((2, 3))),
    ("nn.avg_pool2d", {**POOL, "ceil_mode": True, "count_include_pad": True}, X, X,
     Window((2, 3), counts_padding=True)),
    ("nn.avg_pool2d", {key: value for key, value in POOL.items() if key != "dilation"}, X, X,
     Window((2, 3), convolution=PLAIN_MEAN)),  # older TVMs have none
    ("nn.avg_pool2d", {**{key: value for key, value in POOL.items() if key != "count_include_pad"},
                       "padding": (1, 1, 1, 1)}, X, X, Window((2, 3))),
    ("nn.adaptive_avg_pool2d", {"layout": "NCHW", "out_layout": "NCHW"}, X, X, Window((2, 3))),
    ("nn.adaptive_avg_pool2d", {"layout": "NCHW", "out_layout": "NHWC"}, X, LAST, None),
    # Means and maxima.
    ("mean", {"axis": [2, -1], "keepdims": True}, X, (2, 4, 1, 1), Window((2, 3))),
    ("mean", {"axis": [2, -1], "keepdims": False}, X, (2, 4), Window((2, 3), keep=False)),
    ("max", {"axis": [0], "keepdims": True}, X, (1, 4, 6, 6), Window((0,), by_order=True)),
    ("mean", {"axis": None, "keepdims": False}, X, (), Window((0, 1, 2, 3), keep=False)),
    ("mean", {"axis": None, "keepdims": True}, X, (1, 1, 1, 1), Window((0, 1, 2, 3))),
    ("mean", {"axis": [], "keepdims": True}, X, X, None),  # of nothing, in some versions
    ("mean", {"axis": [], "keepdims": True}, X, (1, 1, 1, 1), None),
    # Resizing.
    ("image.resize2d", RESIZE, X, X, Window((2, 3))),
    ("image.resize2d", {**RESIZE, "layout": "NHWC"}, LAST, LAST, Window((1, 2))),
    ("image.resize2d", {**RESIZE, "roi": [0.0, 0.0, 1.0, 1.0]}, X, X, None),
    ("image.resize2d", {**RESIZE, "roi": None}, X, X, Window((2, 3))),
    ("image.resize2d", {"layout": "NCHW"}, X, X, Window((2, 3))),
    ("image.resize2d", {**RESIZE, "coordinate_transformation_mode": "tf_crop_and_resize"}, X, X,
     None),
    ("image.resize2d", {**RESIZE, "cubic_exclude": 1}, X, X, None),
    ("image.resize2d", {**RESIZE, "cubic_exclude": 0}, X, X, Window((2, 3))),
    # What stands beside the input.
    ("nn.pad", {"pad_width": (0, 0, 1, 0, 0, 2, 0, 0), "pad_mode": "constant", "pad_value": 1.5}, X,
     (2, 5, 8, 6), Pad(((1, (1, 0)), (2, (0, 2))), 1.5)),
    ("nn.pad", {"pad_width": (0, 0, 0, 1), "pad_mode": "reflect", "pad_value": 0.0}, X[:2],
     (2, 5), Pad(((1, (0, 1)),), None)),
    ("nn.pad", {"pad_width": (0, 0, 0, 1), "pad_mode": "mirror", "pad_value": 0.0}, X[:2],
     (2, 5), None),
    ("nn.pad", {"pad_width": (0, 0, 1), "pad_mode": "constant", "pad_value": 0.0}, X[:2],
     (2, 5), None),
    # Again and again.
    ("repeat", {"repeats": 2, "axis": -1}, X, (2, 4, 6, 12), Window((3,))),
    ("repeat", {"repeats": 2, "axis": 0}, X, (4, 4, 6, 6), Window((0,))),
    ("repeat", {"repeats": 2, "axis": None}, X, (576,), None),
    ("tile", {"repeats": (2, 1, 1, 3)}, X, (4, 4, 6, 18), Window((0, 3))),
    ("tile", {"repeats": (2,)}, X, (2, 4, 6, 12), Window((3,))),
    ("tile", {"repeats": (2, 1, 1, 1, 1)}, X, (2, *X), None),
    ("nn.pixel_shuffle", {"upscale_factor": 2}, X[1:], (1, 12, 12), None),
    ("concat", {"axis": -1}, X, X, Concat(3)),
    ("concat", {"axis": 1}, X, X, Concat(1)),
    ("concat", {"axis": None}, X, X, None),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs", "before", "after", "expected"), ROWS)
def test_what_maps_may_cross(
    op: str, attrs: dict[str, Any], before: Dims, after: Dims, expected: Any
) -> None:
    assert _role(op, attrs, _node(after), _node(before)) == expected


def test_shapes_and_dtypes_are_known() -> None:
    """And all that it reads have one dtype, its own, and one rank."""
    x, open_x = _node(X), _node(None, rank=4)
    assert _role("nn.relu", {}, x, x) == Homogeneous()
    assert _role("nn.relu", {}, open_x, x) is None
    assert _role("nn.relu", {}, x, open_x) is None
    assert _role("nn.relu", {}, x) is None
    assert _role("nn.relu", {}, x, _node(X, "float16")) is None
    assert _role("nn.relu", {}, _node(X, "float16"), x) is None
    joined = {"axis": 1}
    assert _role("concat", joined, x, x, x) == Concat(1)
    assert _role("concat", joined, x, x, open_x) is None
    assert _role("concat", joined, x, x, _node(X[1:])) is None
    assert _role("concat", joined, x, x, _node(X, "float16")) is None
    assert _role("concat", joined, x) is None


def test_what_relay_alone_has() -> None:
    def read(reader: Any, **attrs: Any) -> Any:
        return reader(_called("", attrs), X, X)

    mean = movements.reduction(by_order=False)
    assert read(mean, axis=[1], keepdims=1, exclude=True) == Window((0, 2, 3))
    assert read(mean, axis=[1], keepdims=1, exclude=False) == Window((1,))
    pool = movements.pool_over_all(by_order=True)
    assert read(pool, layout="NCHW") == Window((2, 3), by_order=True)
    order = {"src_layout": "NCHW", "dst_layout": "NHWC"}
    assert read(movements.layout_transform, **order) == Permute((0, 2, 3, 1))
    assert read(movements.layout_transform, **{**order, "dst_layout": "NCHW4c"}) is None


def test_calls_of_relax() -> None:
    """Those whose attributes are objects of TVM's own, or whose numbers are operands."""

    def moved(op: str, *args: Any, **options: Any) -> Any:
        role = role_of(lambda make: make.call(op, make.input(*X), *args, **options))
        return role.movement if isinstance(role, Move) else role

    def laid_out(index_map: Any) -> Any:
        return moved("layout_transform", index_map)

    assert laid_out(lambda n, c, h, w: (n, h, w, c)) == Permute((0, 2, 3, 1))
    for index_map in (
        lambda n, c, h, w: (n, c // 2, h, w, c % 2),
        lambda n, c, h, w: (n, c * 6 + h, w),
        lambda n, c, h, w: (n, c // 2, h * 2 + c % 2, w),
        lambda n, c, h, w: (n, c, h, w, n * 0),
    ):
        assert isinstance(laid_out(index_map), Opaque)
    assert moved("mean", [2]) == Window((2,), keep=False)
    assert moved("max", [2], keepdims=True) == Window((2,), by_order=True)
    assert moved("nn.adaptive_avg_pool2d", 2) == Window((2, 3))
    wide = depth_to_space(X, (2, 1, 12, 12), 2, True, False)
    assert isinstance(wide, Chain)
    assert moved("nn.pixel_shuffle", 2) == wide
    assert moved("strided_slice", [1], [1], [3]) == Select(1, 1, 3)
    assert moved("strided_slice", [-1], [-3], [6], [1]) == Select(3, 3, 6)
    assert moved("strided_slice", [1, 2], [0, 2], [4, 6]) == Select(2, 2, 6)
    assert moved("strided_slice", [1], [0], [4]) == Identity()
    assert moved("strided_slice", [], [], []) == Identity()
    for slices in (
        ([1], [0], [4], [2]),
        ([1, 2], [1, 2], [4, 6]),
        ([1, 2], [0, 5], [4, 0], [1, -1]),
    ):
        assert isinstance(moved("strided_slice", *slices), Opaque)


def test_where_a_slice_begins() -> None:
    """Is known when compiling, as are its axes and steps."""

    def sliced(axes: Any, begins: Any, *steps: Any) -> Any:
        lists = (axes, begins, (5,), *steps)
        args = [SimpleNamespace(expr=SimpleNamespace(fields=fields)) for fields in lists]
        called = _called("strided_slice", {})
        called.value.args = [None, *args]
        return RELAX.movements["strided_slice"](called, X, (2, 4, 4, 6))

    def number(value: int) -> Any:
        return tvm.tirx.IntImm("int64", value)

    free = tvm.tirx.Var("n", "int64")
    one, two = [number(1)], [number(2)]
    assert sliced(two, one) == Select(2, 1, 5)
    assert sliced(two, one, one) == Select(2, 1, 5)
    assert sliced(two, one, []) == Select(2, 1, 5)
    assert sliced(two, one, two) is None
    assert sliced([free], one) is None
    assert sliced(two, [free]) is None
    assert sliced(two, one, [free]) is None
    assert sliced([*two, free], one) is None
    with pytest.raises(ValueError, match="zip"):  # read_movement takes that for a refusal
        sliced(two, [*one, *one])


def test_an_operand_that_is_computed() -> None:
    """A slope is a constant, or it is data that the map would not reach."""
    slopes = role_of(lambda m: m.call("nn.prelu", m.input(*X), m.constant(4)))
    assert slopes == Move(Homogeneous())
    free = role_of(lambda m: m.call("nn.prelu", m.input(*X), m.input(4, name="slopes")))
    assert isinstance(free, Opaque)
