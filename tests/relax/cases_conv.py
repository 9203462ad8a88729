"""Convolutions and matrix products followed by BatchNorm, in every layout."""

from __future__ import annotations

from typing import Any

from relax.graphs import VERSION, Case, Expr, Make, pair

from bnfx import Code

_SIZES = (6, 7, 5)
_VARIANTS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "plain": ((8, 4), {}),
    "bias": ((8, 4), {"bias": True}),
    "grouped": ((8, 4), {"groups": 2}),
    "depthwise": ((4, 4), {"groups": 4}),
    "multiplier": ((8, 4), {"groups": 4}),
    "square": ((6, 6), {}),
    "strided": ((8, 4), {"strides": 2, "padding": 1}),
    "dilated": ((8, 4), {"dilation": 2, "padding": 2}),
}
# TVM 0.25 and 0.26 cannot build these of transposed ones of one dimension, folded or not.
_TRANSPOSED = {1: ("plain", "bias", "square", "strided"), 2: tuple(_VARIANTS), 3: tuple(_VARIANTS)}


def _layer(rank: int, kind: str, variant: str) -> Any:
    (out, inside), options = _VARIANTS[variant]

    def build(make: Make) -> Expr:
        x = make.input(2, inside, *_SIZES[:rank])
        spread = {
            k: (v,) * rank if k in ("strides", "padding", "dilation") else v
            for k, v in options.items()
        }
        y = getattr(make, kind)(x, out, inside, *(3,) * rank, **spread)
        return make.batch_norm(y, out)

    return build


def _in_layout(data: str, kernel: str, groups: int = 1, bias: bool = False) -> Any:
    """A convolution with channels where the layout says, then BatchNorm over them."""
    spatial = data.strip("NC")

    def build(make: Make) -> Expr:
        rank, inside, out = len(spatial), 4, 8
        sizes = dict(zip(spatial, _SIZES, strict=False))
        x = make.input(*(({"N": 2, "C": inside} | sizes)[letter] for letter in data))
        letters = {"O": out, "I": inside // groups} | dict.fromkeys(spatial, 3)
        weight = make.constant(*(letters[letter] for letter in kernel))
        options = {"data_layout": data, "kernel_layout": kernel, "groups": groups}
        y = make.call(f"nn.conv{rank}d", x, weight, padding=(1,) * rank, **options)
        if bias:
            y = make.call("add", y, make.constant(out))
        return make.batch_norm(y, out, axis=data.index("C"))

    return build


def _linear(bias: bool, rank: int = 2) -> Any:
    def build(make: Make) -> Expr:
        y = make.linear(make.input(*(3, 4, 6)[: rank - 1], 5), 7, 5, bias)
        return make.batch_norm(y, 7, axis=-1)

    return build


def _matmul(make: Make) -> Expr:
    return make.batch_norm(make.call("matmul", make.input(3, 5), make.constant(5, 7)), 7)


def _rows(make: Make) -> Expr:
    """BatchNorm1d behind a linear layer on (N, L, C), and L == C."""
    return make.batch_norm(make.linear(make.input(3, 7, 5), 7, 5), 7, axis=1)


def _own_matrices(make: Make) -> Expr:
    y = make.call("matmul", make.input(2, 6, 5), make.constant(2, 5, 7))
    return make.batch_norm(y, 7, axis=2)


def _weight_on_the_left(make: Make) -> Expr:
    y = make.call("matmul", make.constant(7, 5), make.input(5, 7))
    return make.batch_norm(y, 7)


def _options(**options: Any) -> Any:
    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
        return make.batch_norm(y, 8, **options)

    return build


def _other_axis(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 8, 8), 8, 4, 1, 1)  # C == H
    return make.batch_norm(y, 8, axis=2)


def _bias(kind: str, *shape: int, left: bool = False) -> Any:
    """A constant of this shape next to a convolution, then BatchNorm."""

    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 8, 8), 8, 4, 1, 1)
        known = make.constant(*shape, low=0.5, high=1.5)
        return make.batch_norm(make.call(kind, *((known, y) if left else (y, known))), 8)

    return build


def _bias_read_twice(make: Make) -> Expr:
    """The convolution without its bias goes elsewhere too."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1)
    return pair(make.batch_norm(make.bias(y, 8), 8), make.call("sigmoid", y))


LOWERED: dict[str, Any] = {"folded": 0, "lowered": 1}

CASES = [
    *(
        Case(f"conv{rank}d-{variant}", _layer(rank, "conv", variant))
        for rank in (1, 2, 3)
        for variant in _VARIANTS
    ),
    *(
        Case(
            f"transposed{rank}d-{variant}",
            _layer(rank, "transposed", variant),
            runs=variant != "dilated" or VERSION >= (0, 26),
        )
        for rank in (1, 2, 3)
        for variant in _TRANSPOSED[rank]
    ),
    Case("nhwc-hwio", _in_layout("NHWC", "HWIO")),
    Case("nhwc-hwio-bias", _in_layout("NHWC", "HWIO", bias=True)),
    Case("nhwc-grouped", _in_layout("NHWC", "HWIO", groups=2)),
    Case("nhwc-ohwi", _in_layout("NHWC", "OHWI")),
    Case("nchw-hwio", _in_layout("NCHW", "HWIO")),
    Case("nwc-wio", _in_layout("NWC", "WIO")),
    Case("ndhwc-dhwio", _in_layout("NDHWC", "DHWIO")),
    Case("linear", _linear(bias=False)),
    Case("linear-bias", _linear(bias=True)),
    Case("linear-sequence", _linear(bias=True, rank=3)),
    Case("linear-rank-4", _linear(bias=True, rank=4)),
    Case("matmul", _matmul),
    Case("linear-rows", _rows, **LOWERED, codes=(Code.AXIS_MISMATCH,), left=2),
    Case(
        "matmul-own",
        _own_matrices,
        **LOWERED,
        codes=(Code.UNSUPPORTED_FORM, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case(
        "matmul-left",
        _weight_on_the_left,
        **LOWERED,
        codes=(Code.NOT_A_PARAMETER, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case("no-center", _options(center=False)),
    Case("no-scale", _options(scale=False)),
    Case("neither", _options(scale=False, center=False)),
    Case("large-epsilon", _options(epsilon=0.5)),
    Case("negative-axis", _options(axis=-3)),
    Case(
        "training",
        _options(training=True),
        folded=0,
        kept=1,
        codes=(Code.TRAINING_MODE,),
        left=0,
    ),
    Case("other-axis", _other_axis, **LOWERED, codes=(Code.AXIS_MISMATCH,), left=2),
    Case("bias-full-rank", _bias("add", 1, 8, 1, 1)),
    Case("bias-short", _bias("add", 8, 1, 1)),
    Case("bias-left", _bias("add", 8, 1, 1, left=True)),
    Case("bias-scalar", _bias("add")),
    Case("bias-subtracted", _bias("subtract", 8, 1, 1)),
    Case("bias-minus-conv", _bias("subtract", 8, 1, 1, left=True)),
    Case("factor", _bias("multiply", 1, 8, 1, 1)),
    Case("divisor", _bias("divide", 8, 1, 1)),
    Case("factor-scalar", _bias("multiply")),
    Case("factor-width", _bias("multiply", 8), **LOWERED, codes=(Code.AXIS_MISMATCH,), left=3),
    Case("bias-width", _bias("add", 8), **LOWERED, codes=(Code.AXIS_MISMATCH,), left=3),
    Case("bias-read-twice", _bias_read_twice, folded=0, merged=1, left=2),
    Case("conv-float32", _layer(2, "conv", "bias"), dtype="float32"),
    Case("transposed-float32", _layer(2, "transposed", "plain"), dtype="float32"),
    Case("linear-float32", _linear(bias=True), dtype="float32"),
    Case("conv-float16", _layer(2, "conv", "bias"), dtype="float16"),
]
