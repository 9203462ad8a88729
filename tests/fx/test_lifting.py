"""What every front end shares: arithmetic, parts, windows, pads, and the ops that reports list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bnfx.passes.algebra import (
    BroadcastAffine,
    ChannelAffine,
    Conv,
    ConvTranspose,
    Dense,
    Expression,
    Scalar,
    Source,
)
from bnfx.passes.crossing import Chain, Dims, Identity, Pad, Select, Window
from bnfx.passes.graph import Add, Affine, Graph, Linear, Move, Node, Opaque, Product
from bnfx.passes.lifting.affine_arithmetic import (
    Arithmetic,
    affine_at,
    aligned,
    between,
    operand,
    read_affine,
    read_binary,
    with_constant,
)
from bnfx.passes.lifting.lifted import LiftedGraph
from bnfx.passes.lifting.op_lists import OpLists, kind_of
from bnfx.passes.lifting.pads import padded
from bnfx.passes.lifting.shuffles import depth_to_space, space_to_depth
from bnfx.passes.lifting.slices import sliced, split_part
from bnfx.passes.lifting.windows import Pool, reduced, repeated

ONE, ZERO, NUMBER = Scalar(1.0), Scalar(0.0), Source("n", (), "float32")
ROW, COLUMN = Source("r", (3,), "float32"), Source("c", (4, 1), "float32")


def _value(shape: Dims | None = (4, 3), dtype: str = "float32", **more: Any) -> Node:
    rank = None if shape is None else len(shape)
    return Node("v", more.pop("role", Opaque()), [], rank=rank, dtype=dtype, shape=shape, **more)


def _shape(expression: Expression | None) -> Any:
    return None if expression is None else expression.shape


def test_operands_are_aligned_at_the_end() -> None:
    assert operand(NUMBER, None) is NUMBER
    assert operand(Scalar(2.0), 3) == Scalar(2.0)
    assert _shape(operand(ROW, 2)) == (1, 3)
    assert _shape(operand(ROW, 1)) == (3,)
    assert operand(ROW, None) is None
    assert operand(COLUMN, 1) is None
    assert _shape(aligned(COLUMN, 2)) == (4, 1)
    assert _shape(aligned(COLUMN, 3)) == (4, 1, 1)
    assert _shape(aligned(ROW.reshape(1, 3), 2)) == (3,)
    assert _shape(aligned(Source("o", (1, 1), "float32"), 2)) == ()
    assert aligned(NUMBER, 2) is NUMBER


def test_arithmetic_with_a_constant() -> None:
    def told(op: str, left: bool, alpha: float = 1.0) -> tuple[Any, Any] | None:
        found = with_constant(op, Scalar(2.0), left, alpha)
        return None if found is None else (found.scale, found.shift)

    two, half = Scalar(2.0), ONE / Scalar(2.0)
    assert told("add", False) == (ONE, two)
    assert told("add", True, 3.0) == (Scalar(3.0), two)
    assert told("sub", False) == (ONE, Scalar(-2.0))
    assert told("sub", True, 3.0) == (Scalar(-3.0), two)
    assert told("mul", False) == told("mul", True) == (two, ZERO)
    assert told("div", False) == (half, ZERO)
    assert told("div", True) is None
    assert told("mul", False, 2.0) is None
    assert told("div", False, 2.0) is None
    assert told("pow", False) is None
    found = with_constant("sub", NUMBER, False)
    assert found is not None
    assert found.shift == -NUMBER


def test_maps_that_keep_shape_and_dtype() -> None:
    rows = BroadcastAffine(ROW.reshape(1, 3), ZERO)
    half = BroadcastAffine(Scalar(0.5), ZERO)
    each = BroadcastAffine(Source("e", (4, 3), "float32"), ZERO)
    assert affine_at(_value(), _value(), each) == Affine(each)
    assert affine_at(_value(), _value(), rows) == Affine(rows)
    assert affine_at(_value(None), _value(None), half) == Affine(half)
    assert affine_at(_value(("s0", 3)), _value(("s0", 3)), rows) == Affine(rows)
    for before, node, affine in (
        (_value(dtype="float16"), _value(), half),
        (_value((1, 3)), _value(), half),
        (_value(None), _value(), half),
        (_value(None), _value(None), rows),
        (_value((4, 1)), _value((4, 1)), rows),
        (_value((4, "s0")), _value((4, "s0")), rows),
        (_value(("s0", 3)), _value(("s0", 3)), each),
    ):
        assert affine_at(before, node, affine) is None
        assert read_affine(before, node, affine) is None
    assert read_affine(_value(), _value(), None) is None


@pytest.mark.parametrize(
    ("op", "shapes", "alpha", "expected"),
    [
        ("add", [(4, 3), (4, 3)], 2.0, Add((1.0, 2.0))),
        ("sub", [(4, 3), (4, 3)], 2.0, Add((1.0, -2.0))),
        ("mul", [(4, 3), (4, 3)], 1.0, Product()),
        ("mul", [(4, 1), (4, 3)], 1.0, Product()),
        ("mul", [(4, 1), (1, 3)], 1.0, None),
        ("mul", [(3,), (4, 3)], 1.0, None),
        ("mul", [(4, 3), (4, 3)], 2.0, None),
        ("add", [(4, 1), (4, 3)], 1.0, None),
        ("add", [(4, 3), (4, 3)], 0.0, None),
        ("div", [(4, 3), (4, 3)], 1.0, None),
    ],
)
def test_arithmetic_between_values(op: str, shapes: Any, alpha: float, expected: Any) -> None:
    before = [_value(shape) for shape in shapes]
    assert between(op, before, _value(), alpha) == expected
    found = read_binary(op, _value(), before[0], before[1], alpha)
    assert found == (None if expected is None else Arithmetic(expected, before))
    before[1].dtype = "float16"
    assert between(op, before, _value(), alpha) is None
    open_ones = [_value(None), _value(None)]
    assert between(op, open_ones, _value(None), alpha) is None


def test_arithmetic_of_two_constants() -> None:
    x, node = _value(), _value()
    assert read_binary("add", node, ROW, NUMBER) is None
    assert read_binary("add", node, x, Source("big", (2, 4, 3), "float32")) is None
    found = read_binary("sub", node, ROW, x)
    assert found is not None
    assert isinstance(found.role, Affine)
    assert (found.role.map.scale, _shape(found.role.map.shift)) == (Scalar(-1.0), (1, 3))
    assert found.inputs == [x]


@pytest.mark.parametrize(
    ("before", "after", "starts", "expected"),
    [
        ((4, 3), (4, 3), {}, Identity()),
        ((4, 3), (2, 3), {0: 1}, Select(0, 1, 3)),
        ((4, 3), (2, 3), {0: 0}, Select(0, 0, 2)),
        ((4, 3), (2, 3), {0: -3}, Select(0, 1, 3)),
        ((4, 3), (2, 3), {0: -9}, Select(0, 0, 2)),
        ((4, 3), (2, 3), {0: 2}, Select(0, 2, 4)),
        ((4, 3), (2, 3), {0: 3}, None),
        ((4, 3), (2, 3), {1: 0}, None),
        ((4, 3), (2, 2), {0: 0, 1: 0}, None),
        (("s0", 3), (2, 3), {0: 0}, None),
        ((4, 3), ("s0", 3), {0: 0}, None),
    ],
)
def test_slices(before: Dims, after: Dims, starts: Any, expected: Any) -> None:
    assert sliced(before, after, starts) == expected


class Open:
    """An open size, which would be fixed by a look at it."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it was compared")

    __hash__ = None  # type: ignore[assignment]


def test_parts() -> None:
    assert split_part(1, 1, [2, 3], 5) == Select(1, 2, 5)
    assert split_part(0, 1, [1, 1], 2, keep=False) == Select(0, 1, 2, keep=False)
    assert split_part(1, 1, [2, 3], 6) is None
    assert split_part(1, 0, [2, "s0"], 2) is None
    assert split_part(1, 0, [2, 3], "s0") is None
    assert split_part(1, 0, [2, 3], Open()) is None


def test_pads() -> None:
    assert padded([(0, 0), (1, 0), (0, 2)], "constant", 1.5) == Pad(((1, (1, 0)), (2, (0, 2))), 1.5)
    assert padded([(1, 1)], "constant", None) is None
    assert (
        padded([(1, 1)], "edge", None) == padded([(1, 1)], "wrap", 1.0) == Pad(((0, (1, 1)),), None)
    )
    assert padded([(1, 1)], "mean", 1.0) is None


def _pool(**more: Any) -> Pool:
    values: dict[str, Any] = {
        **{"axes": (2, 3), "last": False, "size": (3, 3), "strides": (1, 1)},
        **{"padding": (1, 1, 1, 1), "dilation": (1, 1), "ceil": False},
    }
    return Pool(**{**values, **more})


X: Dims = (2, 4, 6, 6)


@pytest.mark.parametrize(
    ("more", "before", "expected"),
    [
        ({}, X, True),
        ({"padding": (3, 0, 0, 0)}, X, False),
        ({"padding": (0, 0, 0, 3)}, X, False),
        ({"padding": (2, 0, 2, 0)}, X, True),
        ({"padding": (0, 0, 1, 0), "ceil": True, "strides": (2, 1)}, X, True),
        ({"padding": (0, 0, 1, 0), "ceil": True, "strides": (3, 1)}, X, False),
        ({"dilation": (2, 1)}, X, True),
        ({"dilation": (6, 1)}, X, True),
        ({"dilation": (7, 1)}, X, False),
        ({"dilation": (7, 1), "padding": (0, 0, 1, 1)}, X, True),
        ({"dilation": (2, 1)}, (2, 4, "s0", 6), False),
        ({"dilation": ()}, (2, 4, "s0", 6), True),
    ],
)
def test_windows_that_meet_their_input(more: Any, before: Dims, expected: bool) -> None:
    pool = _pool(**more)
    assert pool.meets_input(before) is expected
    assert pool.maximum(before) == (Window((2, 3), by_order=True) if expected else None)


@pytest.mark.parametrize(
    ("more", "before", "expected"),
    [
        ({"padding": (0,) * 4}, X, (False, True)),
        ({"padding": (0,) * 4, "counts": True}, X, (False, True)),
        ({}, X, (False, False)),
        ({"padding": (0, 0, 1, 0)}, X, (False, False)),
        ({"counts": True}, X, (True, True)),
        ({"counts": True, "padding": (0, 0, 1, 0)}, X, (True, True)),
        ({"counts": True, "ceil": True}, X, (True, False)),
        ({"counts": True, "ceil": True, "padding": (0,) * 4}, X, (True, False)),
        ({"padding": (0,) * 4, "ceil": True}, X, (False, False)),
        ({"padding": (0,) * 4, "dilation": (1, 2)}, X, (False, False)),
        ({"counts": True}, (2, "s0", 6, 6), (True, False)),
        ({"counts": True, "last": True, "axes": (1, 2)}, (2, 6, 6, "s0"), (True, False)),
        ({"counts": True, "last": True, "axes": (1, 2)}, (2, "s0", 6, 4), (True, True)),
        ({"padding": (3, 0, 0, 0)}, X, None),
        ({"padding": (3, 0, 0, 0), "counts": True}, X, (True, True)),
    ],
)
def test_means(more: Any, before: Dims, expected: Any) -> None:
    found = _pool(**more).mean(before)
    told = None if found is None else (found.counts_padding, found.convolution is not None)
    assert told == expected


def test_reductions_and_repeats() -> None:
    assert reduced(3, None, True, False) == Window((0, 1, 2))
    assert reduced(3, [-1], False, True) == Window((2,), keep=False, by_order=True)
    assert reduced(3, [-1], True, False, exclude=True) == Window((0, 1))
    assert reduced(3, None, True, False, exclude=True) == Window((0, 1, 2))
    assert repeated((2, 3), (2, 6), [-1, 1]) == Window((1,))
    assert repeated((2, 3), (1, 2, 6), [1]) is None


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("columns_first", [False, True])
def test_shuffles(columns_first: bool, last: bool) -> None:
    deep: Dims = ("s0", 3, 5, 8) if last else ("s0", 8, 3, 5)
    wide: Dims = ("s0", 6, 10, 2) if last else ("s0", 2, 6, 10)
    for read, before, after in ((depth_to_space, deep, wide), (space_to_depth, wide, deep)):
        found = read(before, after, 2, columns_first, last)
        assert isinstance(found, Chain)
        assert found.steps[-1][1] == after
        assert read(before[1:], after[1:], 2, columns_first, last) is None
        assert read(before, after[1:], 2, columns_first, last) is None


W = Source("w", (4, 2, 3, 3), "float32")
CONV = Conv(W, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
UP = ConvTranspose(
    Source("u", (2, 4, 3, 3), "float32"), None, (1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1), 1
)
BIAS = Source("b", (4,), "float32")
DENSE = Dense(Source("d", (4, 2), "float32"), BIAS)


def test_calls_that_are_kept() -> None:
    def kept(before: Any, after: Any) -> bool:
        node = _value(role=before, origin="o")
        lifted = LiftedGraph(Graph(), {"o": node}, {node: before})
        node.role = after
        return lifted.keeps_call(node)

    conv = Linear(CONV, "float32")
    other = Conv(Source("v", (4, 2, 3, 3), "float32"), BIAS, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    wider = Conv(W, None, (2, 1), ((0, 0), (0, 0)), (1, 1), 1)
    longer = Conv(Source("v", (4, 2, 1, 1), "float32"), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert kept(conv, Linear(other, "float32"))
    assert not kept(conv, Linear(wider, "float32"))
    assert not kept(conv, Linear(longer, "float32"))
    assert not kept(conv, Linear(DENSE, "float32"))
    assert not kept(conv, Linear(UP, "float32"))
    assert not kept(conv, Opaque())
    assert not kept(Opaque(), conv)
    free = _value(role=conv, origin=None)
    assert not LiftedGraph(Graph(), {}, {}).keeps_call(free)


def test_borders_and_what_was_rewritten() -> None:
    conv, plain = _value(role=Linear(CONV, "float32"), origin="c"), _value(origin="p")
    lifted = LiftedGraph(Graph(), {"c": conv, "p": plain}, {conv: conv.role, plain: plain.role})
    assert lifted.is_border(_value(origin="c"))
    assert not lifted.is_border(_value(origin="p"))
    assert not lifted.is_border(_value(origin="elsewhere"))
    assert not lifted.is_border(_value())
    assert not lifted.is_rewritten(conv)
    conv.role = Linear(CONV, "float32")
    assert lifted.is_rewritten(conv)
    assert lifted.is_rewritten(_value())


SHIFT = BroadcastAffine(ONE, BIAS.reshape(1, 4, 1, 1))
BOTH = BroadcastAffine(BIAS.reshape(1, 4, 1, 1), BIAS.reshape(1, 4, 1, 1))
HALF = BroadcastAffine(Scalar(0.5), ZERO)
PLACES: Dims = (2, 4, 5, 5)


@pytest.mark.parametrize(
    ("make", "kind", "flops", "stored"),
    [
        (lambda: Linear(CONV, "float32"), "conv2d", 2 * 72 * 50, 72 * 4),
        (lambda: Linear(UP, "float64"), "conv_transpose2d", 2 * 72 * 98, 72 * 8),
        (lambda: Linear(DENSE, "float16"), "linear", 2 * 8 * 50 + 200, 12 * 2),
        (lambda: Affine(SHIFT, lowered=True), "add", 200, 16),
        (lambda: Affine(BOTH, lowered=True), "multiply-add", 400, 32),
        (lambda: Affine(BOTH), "op", 400, 32),
        (lambda: Affine(HALF), "op", 200, 0),
        (lambda: Add(), "op", 200, 0),
        (lambda: Product(), "op", 200, 0),
        (lambda: Move(Identity()), "op", 0, 0),
    ],
)
def test_ops_of_reports(make: Callable[[], Any], kind: str, flops: int, stored: int) -> None:
    source = _value((2, 2, 7, 7), op="input")
    node = _value(PLACES, role=make(), op="op")
    node.inputs = [source]
    graph = Graph()
    for each in (source, node, _value(op="")):
        graph.append(each)
    first, found = OpLists(graph).before
    assert (found.kind, found.flops, found.weight_bytes) == (kind, flops, stored)
    assert (first.inputs, found.inputs) == ((), (first.identity,))
    assert (found.shape, found.largest, found.mean) == (PLACES, (), ())
    source.op = ""  # of a parameter, which no picture shows
    assert [each.inputs for each in OpLists(graph).before] == [()]
    source.op, node.shape = "input", None
    assert OpLists(graph).before[1].flops == 0
    node.shape = ("s0", 4, 5, 5)  # what is not known counts once; a transposed one asks its input
    assert OpLists(graph).before[1].flops == (flops if "transpose" in kind else flops // 2)


def test_an_op_whose_input_is_not_known() -> None:
    graph = Graph()
    node = _value(PLACES, role=Linear(UP, "float32"))
    node.inputs = [_value(None)]
    for each in (*node.inputs, node):
        graph.append(each)
    assert [each.flops for each in OpLists(graph).before] == [0]


def test_ops_that_no_front_end_named() -> None:
    graph = Graph()
    unnamed, shifts = _value(), _value(role=Affine(SHIFT))
    for each in (unnamed, shifts):
        graph.append(each)
    assert [each.kind for each in OpLists(graph).before] == ["add"]
    assert kind_of(shifts) == "add"
    maps = ChannelAffine(BIAS, BIAS)
    assert kind_of(_value(role=Affine(BroadcastAffine.of_channels(maps, 1)))) == "multiply-add"
