"""BatchNorm before linear operators, and arithmetic of every kind around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from relax.graphs import Case, Expr, Make

from bnfx import Code
from bnfx.passes.relax.compat import constant

Graph = Callable[[Make], Expr]


def _before_conv(rank: int = 2, **options: Any) -> Graph:
    def build(make: Make) -> Expr:
        x = make.input(2, 4, *(6, 7, 5)[:rank])
        return make.conv(make.batch_norm(x, 4), 8, 4, *(3,) * rank, **options)

    return build


def _before_conv_last(padding: int) -> Graph:
    def build(make: Make) -> Expr:
        x = make.batch_norm(make.input(2, 6, 7, 4), 4, axis=3)
        layout = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
        weight = make.constant(3, 3, 4, 8)
        return make.call("nn.conv2d", x, weight, padding=(padding, padding), **layout)

    return build


def _before_transposed(kernel: int, stride: int) -> Graph:
    def build(make: Make) -> Expr:
        x = make.batch_norm(make.input(2, 4, 6, 7), 4)
        return make.transposed(x, 8, 4, kernel, kernel, strides=(stride, stride))

    return build


def _before_linear(make: Make) -> Expr:
    return make.linear(make.batch_norm(make.input(3, 5), 5), 7, 5, bias=True)


def _before_sequence(make: Make) -> Expr:
    return make.linear(make.batch_norm(make.input(2, 3, 5), 5, axis=2), 7, 5)


def _before_padded(make: Make) -> Expr:
    x = make.batch_norm(make.input(2, 4, 6, 7), 4)
    return make.conv(make.call("nn.pad", x, (0, 0, 0, 0, 1, 2, 0, 1)), 8, 4, 3, 3)


def _before_two(make: Make) -> Expr:
    x = make.batch_norm(make.input(2, 4, 6, 7), 4)
    return make.call("concat", [make.conv(x, 8, 4, 1, 1), make.conv(x, 3, 4, 1, 1)], axis=1)


def _zero_gamma(make: Make) -> Expr:
    gamma = constant(np.array([0.0, 1.5, -0.5, 0.0]).astype(make.dtype))
    rest = (make.constant(4), make.constant(4), make.constant(4, low=0.5))
    x = make.call("nn.batch_norm", make.input(2, 4, 6, 7), gamma, *rest, axis=1, training=False)
    return make.conv(make.emit(x[0]), 8, 4, 3, 3, padding=(1, 1))


def _before_relu(make: Make) -> Expr:
    return make.conv(make.call("nn.relu", make.batch_norm(make.input(2, 4, 6, 7), 4)), 8, 4, 3, 3)


def _negated(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return make.batch_norm(make.call("negative", y), 8)


def _by_hand(make: Make) -> Expr:
    """BatchNorm written out: statistics computed from constants."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    mean, var = make.constant(8, 1, 1), make.constant(8, 1, 1, low=0.3, high=2.0)
    eps = constant(np.asarray(1e-5, make.dtype))
    root = make.call("sqrt", make.call("add", var, eps))
    inv = make.call("divide", make.constant(8, 1, 1), root)
    return make.call("nn.relu", make.call("multiply", make.call("subtract", y, mean), inv))


def _by_hand_reshaped(make: Make) -> Expr:
    """The same with ``rsqrt``, ``expand_dims``, ``astype`` and filled tensors."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    var = make.call("add", make.constant(8, low=0.3), make.call("full", (8,), _scalar(make, 1e-3)))
    scale = make.call("expand_dims", make.call("rsqrt", var), [0, 2, 3])
    half = make.call("astype", make.constant(8, 1, 1), "float32")
    shift = make.call("astype", half, make.dtype)
    return make.call("add", make.call("multiply", y, scale), shift)


def _scalar(make: Make, value: float) -> Expr:
    return constant(np.asarray(value, make.dtype))


def _filled_bias(make: Make) -> Expr:
    """A bias that is computed behind the convolution."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    bias = make.call("broadcast_to", _scalar(make, 0.5), (1, 8, 1, 1))
    return make.call("nn.relu", make.call("add", y, bias))


def _mean_std(make: Make) -> Expr:
    x = make.call("subtract", make.input(2, 3, 6, 7), make.constant(3, 1, 1))
    x = make.call("divide", x, make.constant(1, 3, 1, 1, low=0.5, high=1.5))
    return make.batch_norm(make.conv(x, 8, 3, 3, 3, padding=(1, 1)), 8)


def _own_square(make: Make) -> Expr:
    """TVM's FoldScaleAxis got ``(conv + relu(conv)) * -1`` wrong."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    both = make.call("add", y, make.call("nn.relu", y))
    return make.call("multiply", both, _scalar(make, -1.0))


def _chain(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3, bias=True)
    return make.batch_norm(make.batch_norm(y, 8), 8)


def _alone(make: Make) -> Expr:
    return make.call("sigmoid", make.batch_norm(make.input(2, 4, 6, 7), 4))


def _two_alone(make: Make) -> Expr:
    x = make.batch_norm(make.batch_norm(make.input(2, 4, 6, 7), 4), 4)
    return make.call("sigmoid", x)


_LOWERED: dict[str, Any] = {"folded": 0, "lowered": 1}

CASES = [
    Case("bn-conv", _before_conv()),
    Case("bn-conv-padded", _before_conv(padding=(1, 1))),
    Case("bn-conv-grouped", _before_conv(groups=2)),
    Case("bn-conv-depthwise", _before_conv(groups=4, padding=(1, 1))),
    Case("bn-conv-strided-padded", _before_conv(padding=(2, 1), strides=(2, 2))),
    Case("bn-conv-dilated-padded", _before_conv(padding=(2, 2), dilation=(2, 2))),
    Case("bn-conv-asymmetric", _before_conv(padding=(1, 0, 2, 1))),
    Case("bn-conv1d-padded", _before_conv(1, padding=(1,))),
    Case("bn-conv3d-padded", _before_conv(3, padding=(1, 1, 1))),
    Case("bn-conv-last", _before_conv_last(0)),
    Case("bn-conv-last-padded", _before_conv_last(1)),
    Case(
        "bn-transposed",
        _before_transposed(3, 2),
        **_LOWERED,
        codes=(Code.COSTS_MORE, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case("bn-transposed-pointwise", _before_transposed(1, 1)),
    Case("bn-linear", _before_linear),
    Case("bn-linear-sequence", _before_sequence),
    Case("bn-pad-conv", _before_padded),
    Case("bn-two-convs", _before_two, left=2),
    Case("zero-gamma", _zero_gamma),
    Case(
        "bn-relu-conv",
        _before_relu,
        **_LOWERED,
        left=2,
        codes=(Code.NONZERO_SHIFT, Code.NO_LINEAR_BEFORE),
    ),
    Case("negative", _negated),
    Case("by-hand", _by_hand, folded=0),
    Case("by-hand-reshaped", _by_hand_reshaped, folded=0),
    Case("filled-bias", _filled_bias, folded=0),
    Case("mean-std", _mean_std, left=2),
    Case("own-square", _own_square, folded=0, left=2),
    Case("conv-bn-bn", _chain, folded=2),
    Case("alone", _alone, **_LOWERED, left=2, codes=(Code.NO_LINEAR_BEFORE,)),
    Case("two-alone", _two_alone, **_LOWERED, merged=1, left=2, codes=(Code.NO_LINEAR_BEFORE,)),
]
