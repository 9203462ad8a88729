"""How a folded function is written: which calls, bound to which variables."""

from __future__ import annotations

import pytest
from relax.graphs import Expr, Make, pair
from relax.lifted import Build, bias, cast, conv, norm, part, read_by
from relax.written import folded


def _last(make: Make) -> Expr:
    """Channels last, and a kernel in the order of other frameworks."""
    layout = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    y = make.call("nn.conv2d", make.input(2, 6, 6, 4), make.constant(3, 3, 4, 8), **layout)
    return make.batch_norm(y, 8, axis=-1)


def _operands(make: Make) -> Expr:
    """Constants that are computed, beside what is rewritten; the second is larger than its own."""
    x, y = make.input(3), make.input(3, name="y")
    one = make.call("maximum", x, make.call("negative", make.constant(3)))
    two = make.call("maximum", y, make.call("broadcast_to", make.constant(1), (3,)))
    z = make.input(2, 8, 6, 6, name="z")
    return pair(make.batch_norm(make.conv(z, 8, 8, 1, 1), 8), one, two)


def _cast(make: Make) -> Expr:
    y = make.conv(make.input(2, 8, 6, 6), 8, 8, 1, 1)
    return make.batch_norm(make.call("nn.relu", cast(make, make.batch_norm(y, 8))), 8)


def _kept(make: Make) -> Expr:
    """One that is read whole, on what was folded."""
    y = make.call("nn.relu", make.batch_norm(conv(make), 8))
    whole = make.emit(make.batch_norm_call(y, 8))
    return pair(make.emit(whole[0]), make.emit(whole[1]))


def _scaled(make: Make, *shapes: tuple[int, ...]) -> Expr:
    y = make.input(2, 8, 6, 6)
    for shape in shapes:
        y = make.call("multiply", y, make.constant(*shape))
    return y


def _shifted(make: Make, *shapes: tuple[int, ...]) -> Expr:
    y = make.input(2, 8, 6, 6)
    for shape in shapes:
        y = make.call("add", y, make.constant(*shape))
    return y


def _bias_that_comes_late(make: Make) -> Expr:
    """It is computed behind the convolution that takes it."""
    y = conv(make)
    late = make.call("negative", make.constant(8, 1, 1))
    other = make.batch_norm(make.conv(make.input(2, 8, 6, 6, name="z"), 8, 8, 1, 1), 8)
    return pair(make.call("sigmoid", make.call("add", y, late)), other)


def _weight(make: Make) -> Expr:
    """One that is computed, and larger than what it is computed from."""
    weight = make.call("broadcast_to", make.constant(8, 1, 1, 1), (8, 8, 1, 1))
    return make.batch_norm(make.call("nn.conv2d", make.input(2, 8, 6, 6), weight), 8)


def _only_x(make: Make) -> Expr:
    """Maps without a constant that is stored."""
    x = make.input(2, 8, 6, 6)
    opposite = make.call("negative", make.call("nn.relu", x))
    y = make.call("add", opposite, make.call("negative", opposite))
    return make.call("subtract", make.call("negative", y), opposite)


def _late(make: Make) -> Expr:
    """The same where the bias takes more memory than what it is computed from."""
    y = conv(make)
    late = make.call("broadcast_to", make.constant(1, 1, 1), (8, 1, 1))
    other = make.batch_norm(make.conv(make.input(2, 8, 6, 6, name="z"), 8, 8, 1, 1), 8)
    return pair(make.call("sigmoid", make.call("add", y, late)), other)


ONE_BLOCK: dict[str, tuple[Build, str]] = {
    "a BatchNorm": (
        lambda m: m.batch_norm(conv(m), 8),
        "[lv=conv2d(x (8,8,1,1)); lv2=add(lv (1,8,1,1)); gv!=DataflowVar(lv2)] gv",
    ),
    "a BatchNorm behind a bias": (
        lambda m: m.batch_norm(bias(m), 8),
        "[lv=conv2d(x (8,8,1,1)); lv3=add(lv (1,8,1,1)); gv!=DataflowVar(lv3)] gv",
    ),
    "a BatchNorm alone": (
        lambda m: m.batch_norm(m.input(2, 8, 6, 6), 8),
        "[lv=multiply(x (8,1,1)); lv1=add(lv (8,1,1)); gv!=DataflowVar(lv1)] gv",
    ),
    "a BatchNorm of the last axis": (
        lambda m: m.batch_norm(m.input(2, 6, 6, 8), 8, axis=3),
        "[lv=multiply(x (8,)); lv1=add(lv (8,)); gv!=DataflowVar(lv1)] gv",
    ),
    "a BatchNorm's value, twice": (
        lambda m: read_by(m, norm, part(0), part(0)),
        "[lv=conv2d(x (8,8,1,1)); lv4=add(lv (1,8,1,1)); gv!=Tuple(lv4 lv4)] gv",
    ),
    "scales": (
        lambda m: _scaled(m, (8, 1, 1), (6,)),
        "[lv=multiply(x (8,1,1)); lv1=multiply(lv (6,)); gv!=DataflowVar(lv1)] gv",
    ),
    "numbers and a scale": (
        lambda m: _scaled(m, (), (8, 1, 1), ()),
        "[lv2=multiply(x (8,1,1)); gv!=DataflowVar(lv2)] gv",
    ),
    "numbers": (lambda m: _scaled(m, (), (1,)), "[lv1=multiply(x ()); gv!=DataflowVar(lv1)] gv"),
    "shifts": (
        lambda m: _shifted(m, (8, 1, 1), ()),
        "[lv1=add(x (8,1,1)); gv!=DataflowVar(lv1)] gv",
    ),
    "a scale of a convolution": (
        lambda m: m.call("multiply", conv(m), m.constant(8, 1, 1)),
        "[lv1=conv2d(x (8,8,1,1)); gv!=DataflowVar(lv1)] gv",
    ),
    "a product": (
        lambda m: m.batch_norm(m.linear(m.input(2, 8), 4, 8, bias=True), 4),
        "[lv=matmul(x (8,4)); lv4=add(lv (4,)); gv!=DataflowVar(lv4)] gv",
    ),
    "a product that stays": (
        lambda m: m.linear(m.input(2, 8), 4, 8, bias=True),
        "[lv=permute_dims((4,8)); lv1=matmul(x lv); lv2=add((4,) lv1); gv!=DataflowVar(lv2)] gv",
    ),
    "two convolutions": (
        lambda m: m.conv(m.conv(m.input(2, 8, 6, 6), 8, 8, 1, 1), 8, 8, 1, 1),
        "[lv1=conv2d(x (8,8,1,1)); gv!=DataflowVar(lv1)] gv",
    ),
    "channels last": (_last, "[lv=conv2d(x (3,3,4,8)); lv2=add(lv (8,)); gv!=DataflowVar(lv2)] gv"),
    "operands": (
        _operands,
        "[lv1=maximum(x (3,)); lv2=broadcast_to((1,) ShapeExpr); lv3=maximum(y lv2); "
        "lv=conv2d(z (8,8,1,1)); lv6=add(lv (1,8,1,1)); gv!=Tuple(lv6 lv1 lv3)] gv",
    ),
    "a cast": (
        _cast,
        "[lv=conv2d(x (8,8,1,1)); lv2=add(lv (1,8,1,1)); lv3=cast(lv2); lv4=relu(lv3); "
        "lv=multiply(lv4 (8,1,1)); lv6=add(lv (8,1,1)); gv!=DataflowVar(lv6)] gv",
    ),
    "one that is kept": (
        _kept,
        "[lv=conv2d(x (8,8,1,1)); lv2=add(lv (1,8,1,1)); lv3=relu(lv2); "
        "lv4=batch_norm(lv3 (8,) (8,) (8,) (8,)); lv5=DataflowVar(lv4); "
        "lv6=TupleGetItem(lv5); lv7=TupleGetItem(lv5); gv!=Tuple(lv6 lv7)] gv",
    ),
    "a bias that comes late": (
        _bias_that_comes_late,
        "[lv=conv2d(x (8,8,1,1)); lv5=add(lv (8,1,1)); lv=conv2d(z (8,8,1,1)); "
        "lv4=add(lv (1,8,1,1)); lv6=sigmoid(lv5); gv!=Tuple(lv6 lv4)] gv",
    ),
    "maps without constants": (
        _only_x,
        "[lv=relu(x); lv5=multiply(lv ()); gv!=DataflowVar(lv5)] gv",
    ),
    "a bias that is larger, and comes late": (
        _late,
        "[lv=conv2d(x (8,8,1,1)); lv5=add(lv (8,1,1)); lv=conv2d(z (8,8,1,1)); "
        "lv4=add(lv (1,8,1,1)); lv6=sigmoid(lv5); gv!=Tuple(lv6 lv4)] gv",
    ),
    "a weight that is computed": (
        _weight,
        "[lv=conv2d(x (8,8,1,1)); lv3=add(lv (1,8,1,1)); gv!=DataflowVar(lv3)] gv",
    ),
}


@pytest.mark.parametrize("name", ONE_BLOCK)
def test_one_block(name: str) -> None:
    build, expected = ONE_BLOCK[name]
    assert folded(build) == expected


def test_a_map_of_half_precision() -> None:
    """Is computed in float32, and rounded once."""
    text = folded(lambda m: m.batch_norm(m.input(2, 8, 6, 6), 8), "float16")
    assert text == (
        "[lv=astype(x); lv=multiply(lv (8,1,1)); lv=add(lv (8,1,1)); lv1=astype(lv); "
        "gv!=DataflowVar(lv1)] gv"
    )
