"""Operators, biases, BatchNorms and arithmetic, by their attributes and operands."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bnfx import Code
from bnfx.passes.algebra import Conv, ConvTranspose, Dense, Expression, Source
from bnfx.passes.graph import Add, Affine, Linear, Node, Opaque, Product
from bnfx.passes.refusals import Refusal
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.tvm.arithmetic_roles import read_arithmetic
from bnfx.passes.tvm.operators import dense, read_batch_norm, read_operator, with_bias
from bnfx.passes.values import Values

X = (2, 4, 6, 6)


def _source(*shape: int, dtype: str = "float32", name: str = "source") -> Source:
    return Source(name, shape, dtype)


def _node(*shape: int, dtype: str | None = "float32", known: bool = True, **given: Any) -> Node:
    role = given.pop("role", Opaque())
    dims = shape if known else None
    return Node("node", role, [], rank=len(shape) or None, dtype=dtype, shape=dims, **given)


def _value(op: str, *args: Any, **attrs: Any) -> Any:
    return SimpleNamespace(op=op, args=args, attrs=SimpleNamespace(**attrs))


CONV = {
    "data_layout": "NCHW",
    "kernel_layout": "OIHW",
    "out_layout": "NCHW",
    "strides": (1, 1),
    "padding": (1, 1, 1, 1),
    "dilation": (1, 1),
    "groups": 1,
}


def _read(weight: Any, node: Node, source: Node, op: str = "nn.conv2d", **attrs: Any) -> Any:
    value = _value(op, "data", "weight", **{**CONV, **attrs})
    return read_operator(value, node, source, lambda value, what: weight, RELAX)


def test_an_operator_is_read() -> None:
    x = _node(*X)
    read, refusals = _read(_source(8, 4, 3, 3), x, x)
    assert isinstance(read.linear.operator, Conv)
    assert (read.linear.dtype, refusals) == ("float32", ())
    other = {"kernel_layout": "IOHW", "output_padding": (0, 0)}
    read, _ = _read(_source(4, 8, 3, 3), x, x, "nn.conv2d_transpose", **other)
    assert isinstance(read.linear.operator, ConvTranspose)


def test_other_operators_are_refused() -> None:
    x, half = _node(*X), _node(*X, dtype="float16")
    free = Refusal(Code.NOT_A_PARAMETER, "free")
    assert _read(free, x, x) == (None, (free,))
    weight = _source(8, 4, 3, 3)
    for node, source, dtype in ((half, x, "float32"), (x, half, "float32"), (x, x, "float16")):
        read, (refusal,) = _read(replace(weight, dtype=dtype), node, source)
        assert (read, refusal.code) == (None, Code.DTYPE_CHANGE)
    read, (refusal,) = _read(weight, x, _node(*X, known=False))
    assert (read, refusal.code) == (None, Code.UNSUPPORTED_FORM)
    assert "shape of what it reads is not known" in refusal.reason
    read, (refusal,) = _read(weight, x, x, data_layout="NCHW2c")
    assert (read, refusal.code) == (None, Code.UNSUPPORTED_FORM)


def test_products_with_a_matrix() -> None:
    def read(weight: Source, rank: int) -> Any:
        x = _node(*(4,) * rank)
        return _read(weight, x, x, "matmul")

    found, _ = read(_source(4, 5), 2)
    assert isinstance(found.linear.operator, Dense)
    assert (found.linear.operator.in_channels, found.linear.operator.out_channels) == (4, 5)
    assert read(_source(4, 5), 4)[0] is not None
    for weight, rank in ((_source(4, 5), 1), (_source(4), 2), (_source(1, 4, 5), 3)):
        assert read(weight, rank)[1][0].code is Code.UNSUPPORTED_FORM
    unknown = Node("node", Opaque(), [], dtype="float32")
    assert _read(_source(4, 5), unknown, unknown, "matmul")[0] is None


def test_matrices() -> None:
    """Either way round, and one that is written as a batch of one; stored as it was."""
    numbers = np.random.default_rng(0).normal(size=(3, 5))
    for front in ((), (1,), (1, 1)):
        for swapped in (False, True):
            weight = numbers.reshape(*front, 3, 5)
            values = Values(lambda source, weight=weight: weight, np.zeros(()))  # type: ignore[misc]
            operator, stored = dense(_source(*weight.shape, dtype="float64"), swapped)
            wanted = numbers.T if swapped else numbers
            assert np.array_equal(values.exact(operator.weight), wanted)
            assert np.array_equal(values.exact(stored.weight(operator.weight)), weight)
    with pytest.raises(ValueError, match="each of 2 samples has a matrix of its own"):
        dense(_source(2, 3, 5), swapped=False)


def _linear(channels_last: bool = False, out: int = 8) -> Linear:
    sides = ((1, 1), (1, 1))
    weight = _source(out, 4, 3, 3)
    conv = Conv(weight, None, (1, 1), sides, (1, 1), 1, channels_last=channels_last)
    return Linear(conv, "float32")


FIRST, LAST = _linear(), _linear(channels_last=True)
# The operator, the shape of a constant that is added, and whether that is a bias.
BIASES = [
    (FIRST, (8, 1, 1), True),
    (FIRST, (1, 8, 1, 1), True),
    (FIRST, (1, 1, 8, 1, 1), False),
    (FIRST, (8,), False),
    (FIRST, (8, 1), False),
    (FIRST, (1, 1, 1), False),
    (FIRST, (), False),
    (FIRST, (2, 8, 1, 1), False),
    (FIRST, (8, 6, 1), False),
    (LAST, (8,), True),
    (LAST, (1, 1, 8), True),
    (LAST, (1, 1, 1, 8), True),
    (LAST, (1, 1, 1, 1, 8), False),
    (LAST, (8, 1), False),
    (LAST, (1,), False),
    (LAST, (), False),
]


@pytest.mark.parametrize(("role", "shape", "is_bias"), BIASES)
def test_a_bias_stands_along_the_channels(
    role: Linear, shape: tuple[int, ...], is_bias: bool
) -> None:
    node = _node(2, 8, 6, 6, role=role)
    bias = _source(*shape, name="bias")
    found = with_bias(_value("add"), node, bias)
    assert (found is not None) is is_bias
    if found is not None:
        assert found.operator.bias is not None
        assert found.operator.bias.shape == (8,)
        assert found.dtype == "float32"


def test_a_bias_says_its_axis_in_relay() -> None:
    def found(role: Linear, axis: int) -> bool:
        node = _node(2, 8, 6, 6, role=role)
        return with_bias(_value("nn.bias_add", axis=axis), node, _source(8)) is not None

    assert [axis for axis in range(-4, 4) if found(FIRST, axis)] == [-3, 1]
    assert [axis for axis in range(-4, 4) if found(LAST, axis)] == [-1, 3]


def test_what_is_no_bias() -> None:
    bias, node = _source(8, 1, 1), _node(2, 8, 6, 6, role=FIRST)
    assert with_bias(_value("add"), node, bias) is not None
    assert with_bias(_value("add"), node, Refusal(Code.NOT_A_PARAMETER, "free")) is None
    assert with_bias(_value("add"), node, replace(bias, dtype="float16")) is None
    assert with_bias(_value("add"), _node(2, 8, 6, 6), bias) is None
    unknown = Node("node", FIRST, [], dtype="float32")
    assert with_bias(_value("add"), unknown, bias) is None


NORM = {"axis": 1, "epsilon": 0.25, "center": True, "scale": True, "training": False}
NUMBERS = {"gamma": 3.0, "beta": 5.0, "moving_mean": 2.0, "moving_var": 0.75}


def _norm(free: str = "", sizes: int = 1, **attrs: Any) -> Any:
    def lookup(value: Any, what: str) -> Source | Refusal:
        if what == free:
            return Refusal(Code.NOT_A_PARAMETER, what)
        return _source(sizes if what == "beta" else 1, dtype="float64", name=what)

    given = {key: value for key, value in {**NORM, **attrs}.items() if value is not None}
    return read_batch_norm(_value("nn.batch_norm", *"xgbmv", **given), lookup)


def _at_ten(affine: Any) -> float:
    values = Values(lambda source: np.full(source.shape, NUMBERS[source.name]), np.zeros(()))
    return float(values.exact(affine.scale)[0] * 10 + values.exact(affine.shift)[0])


def test_a_batch_norm() -> None:
    assert _at_ten(_norm()[0]) == 3 * (10 - 2) + 5
    assert _at_ten(_norm(scale=False)[0]) == (10 - 2) + 5
    assert _at_ten(_norm(center=False)[0]) == 3 * (10 - 2)
    assert _norm(training=None)[0] is not None  # Relay knows inference alone


def test_other_batch_norms() -> None:
    for free in NUMBERS:
        affine, (refusal,) = _norm(free)
        assert (affine, refusal.reason) == (None, free)
    assert _norm("gamma", scale=False)[0] is not None
    assert _norm("beta", center=False)[0] is not None
    affine, refusals = _norm("moving_mean", training=True)
    assert affine is None
    assert [refusal.code for refusal in refusals] == [Code.TRAINING_MODE, Code.NOT_A_PARAMETER]
    affine, (refusal,) = _norm(sizes=2)
    assert (affine, refusal.code) == (None, Code.UNSUPPORTED_FORM)


def _arithmetic(op: str, node: Node, constants: dict[int, Expression], **attrs: Any) -> Any:
    # What it reads is like what it gives.
    args = [
        Node("x", Opaque(), [], rank=node.rank, dtype=node.dtype, shape=node.shape) for _ in "xy"
    ]
    read = read_arithmetic(_value(op, *args, **attrs), node, args, constants.get)
    assert (
        read is None
        or read.inputs == [a for n, a in enumerate(args) if n not in constants][: len(read.inputs)]
    )
    return None if read is None else read.role


def test_arithmetic() -> None:
    """With a constant on either side, or of two values."""
    x, number, row = _node(*X), _source(name="number"), _source(6, name="row")
    assert _arithmetic("add", x, {}) == Add((1.0, 1.0))
    assert _arithmetic("subtract", x, {}) == Add((1.0, -1.0))
    assert _arithmetic("multiply", x, {}) == Product()
    assert _arithmetic("divide", x, {}) is None
    for op in ("add", "subtract", "multiply", "divide"):
        for constant in (number, row):
            assert isinstance(_arithmetic(op, x, {1: constant}), Affine)
            assert isinstance(_arithmetic(op, x, {0: constant}), Affine) is (op != "divide")
    assert _arithmetic("add", x, {0: number, 1: number}) is None
    assert isinstance(_arithmetic("negative", x, {1: number}), Affine)
    for op in ("add", "negative"):
        assert _arithmetic(op, _node(*X, dtype="int32"), {1: number}) is None
        assert _arithmetic(op, _node(*X, dtype=None), {1: number}) is None
    unknown = Node("node", Opaque(), [], dtype="float32")
    assert _arithmetic("add", unknown, {1: number}) is None
    assert _arithmetic("negative", unknown, {}) is None
    assert _arithmetic("nn.bias_add", unknown, {1: row}, axis=1) is None


def test_a_vector_is_added_along_an_axis() -> None:
    x, row = _node(*X), _source(6, name="row")
    for axis in (2, 3, -1, -2):
        role = _arithmetic("nn.bias_add", x, {1: row}, axis=axis)
        assert isinstance(role, Affine)
        assert role.map.axes == (axis % 4,)
    assert _arithmetic("nn.bias_add", x, {1: row}, axis=1) is None  # of another size
    assert _arithmetic("nn.bias_add", x, {}, axis=3) is None
    assert _arithmetic("nn.bias_add", x, {0: row}, axis=3) is None
    assert _arithmetic("nn.bias_add", x, {0: row, 1: row}, axis=3) is None
