"""Convolutions and dense layers followed by BatchNorm, in every layout."""

from __future__ import annotations

from typing import Any

from graphs import Case, Expr, Make
from tvm import relay

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
# TVM 0.16 cannot build them, folded or not.
_CONV_ONLY = ("grouped", "depthwise", "multiplier", "dilated")


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


def _in_layout(data: str, kernel: str, groups: int = 1) -> Any:
    """A convolution with channels last, then BatchNorm over the last axis."""
    spatial = data.strip("NC")

    def build(make: Make) -> Expr:
        rank, inside, out = len(spatial), 4, 8
        sizes = dict(zip(spatial, _SIZES, strict=False))
        x = make.input(*(({"N": 2, "C": inside} | sizes)[letter] for letter in data))
        letters = {"O": out, "I": inside // groups} | dict.fromkeys(spatial, 3)
        weight = make.constant(*(letters[letter] for letter in kernel))
        y = getattr(relay.nn, f"conv{rank}d")(
            x,
            weight,
            channels=out,
            kernel_size=(3,) * rank,
            padding=(1,) * rank,
            groups=groups,
            data_layout=data,
            kernel_layout=kernel,
        )
        return make.batch_norm(y, out, axis=data.index("C"))

    return build


def _depthwise_hwoi(make: Make) -> Expr:
    x = make.input(2, 6, 7, 4)
    y = relay.nn.conv2d(
        x,
        make.constant(3, 3, 4, 1),
        channels=4,
        kernel_size=(3, 3),
        padding=(1, 1),
        groups=4,
        data_layout="NHWC",
        kernel_layout="HWOI",
    )
    return make.batch_norm(y, 4, axis=3)


def _bias_add_last(make: Make) -> Expr:
    x = make.input(2, 6, 7, 4)
    y = relay.nn.conv2d(
        x,
        make.constant(3, 3, 4, 8),
        channels=8,
        kernel_size=(3, 3),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )
    return make.batch_norm(relay.nn.bias_add(y, make.constant(8), axis=-1), 8, axis=-1)


def _dense(bias: bool) -> Any:
    def build(make: Make) -> Expr:
        y = relay.nn.dense(make.input(3, 5), make.constant(7, 5))
        if bias:
            y = relay.nn.bias_add(y, make.constant(7))
        return make.batch_norm(y, 7)

    return build


def _matmul(transposed: bool) -> Any:
    def build(make: Make) -> Expr:
        shape = (7, 5) if transposed else (5, 7)
        y = relay.nn.matmul(make.input(3, 5), make.constant(*shape), transpose_b=transposed)
        return make.batch_norm(y, 7)

    return build


def _transposed_weight(make: Make) -> Expr:
    """Frontends write weights so."""
    weight = relay.transpose(make.constant(5, 7), (1, 0))
    return make.batch_norm(relay.nn.dense(make.input(3, 5), weight), 7)


def _batch_matmul(batch: int, axis: int = -1) -> Any:
    def build(make: Make) -> Expr:
        y = relay.nn.batch_matmul(make.input(2, 7, 5), make.constant(batch, 7, 5))
        return make.batch_norm(y, 7, axis=axis)  # L == C == 7

    return build


def _options(**options: Any) -> Any:
    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
        return make.batch_norm(y, 8, **options)

    return build


def _other_axis(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 8, 8), 8, 4, 1, 1)  # C == H
    return make.batch_norm(y, 8, axis=2)


def _blocked(make: Make) -> Expr:
    x = relay.layout_transform(make.input(1, 8, 6, 6), "NCHW", "NCHW8c")
    weight = relay.layout_transform(make.constant(8, 8, 1, 1), "OIHW", "OIHW8i8o")
    y = relay.nn.contrib_conv2d_nchwc(
        x,
        weight,
        channels=8,
        kernel_size=(1, 1),
        data_layout="NCHW8c",
        kernel_layout="OIHW8i8o",
        out_layout="NCHW8c",
    )
    return make.batch_norm(relay.layout_transform(y, "NCHW8c", "NCHW"), 8)


CASES = [
    *(
        Case(f"conv{rank}d-{variant}", _layer(rank, "conv", variant))
        for rank in (1, 2, 3)
        for variant in _VARIANTS
    ),
    *(
        Case(f"transposed{rank}d-{variant}", _layer(rank, "transposed", variant))
        for rank in (1, 2, 3)
        for variant in _VARIANTS
        if variant not in _CONV_ONLY
    ),
    Case("nhwc-hwio", _in_layout("NHWC", "HWIO")),
    Case("nhwc-hwio-depthwise", _depthwise_hwoi),
    Case("nwc-wio", _in_layout("NWC", "WIO")),
    Case("ndhwc-dhwio", _in_layout("NDHWC", "DHWIO")),
    Case("nhwc-bias", _bias_add_last),
    Case("blocked", _blocked, folded=0, lowered=1, codes=(Code.NO_LINEAR_BEFORE,), left=2),
    Case("dense", _dense(bias=False)),
    Case("dense-bias", _dense(bias=True)),
    Case("dense-transposed-weight", _transposed_weight),
    Case("matmul-nn", _matmul(transposed=False)),
    Case("matmul-nt", _matmul(transposed=True)),
    Case("batch-matmul-shared", _batch_matmul(1)),
    Case(
        "batch-matmul-own",
        _batch_matmul(2),
        folded=0,
        lowered=1,
        codes=(Code.UNSUPPORTED_FORM, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case(
        "batch-matmul-rows",
        _batch_matmul(1, axis=1),
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
        left=2,
    ),
    Case("no-center", _options(center=False)),
    Case("no-scale", _options(scale=False)),
    Case("neither", _options(scale=False, center=False)),
    Case("large-epsilon", _options(epsilon=0.5)),
    Case("other-axis", _other_axis, folded=0, lowered=1, codes=(Code.AXIS_MISMATCH,), left=2),
    Case("conv-float32", _layer(2, "conv", "bias"), dtype="float32"),
    Case("transposed-float32", _layer(2, "transposed", "plain"), dtype="float32"),
    Case("conv-float16", _layer(2, "conv", "bias"), dtype="float16"),
]
