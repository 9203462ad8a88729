"""BatchNorm before linear operators, and arithmetic of every kind around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from graphs import Case, Expr, Make, tensor
from tvm import relay

from bnfx import Code

Graph = Callable[[Make], Expr]


def _before_conv(rank: int = 2, **options: Any) -> Graph:
    def build(make: Make) -> Expr:
        x = make.input(2, 4, *(6, 7, 5)[:rank])
        return make.conv(make.batch_norm(x, 4), 8, 4, *(3,) * rank, **options)

    return build


def _before_conv_last(padding: int) -> Graph:
    def build(make: Make) -> Expr:
        x = make.batch_norm(make.input(2, 6, 7, 4), 4, axis=3)
        return relay.nn.conv2d(
            x,
            make.constant(3, 3, 4, 8),
            channels=8,
            kernel_size=(3, 3),
            padding=(padding, padding),
            data_layout="NHWC",
            kernel_layout="HWIO",
        )

    return build


def _before_transposed(kernel: int, stride: int) -> Graph:
    def build(make: Make) -> Expr:
        x = make.batch_norm(make.input(2, 4, 6, 7), 4)
        return make.transposed(x, 8, 4, kernel, kernel, strides=(stride, stride))

    return build


def _before_dense(make: Make) -> Expr:
    return relay.nn.dense(make.batch_norm(make.input(3, 5), 5), make.constant(7, 5))


def _before_padded(make: Make) -> Expr:
    x = make.batch_norm(make.input(2, 4, 6, 7), 4)
    x = relay.nn.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1)), pad_value=0.0)
    return make.conv(x, 8, 4, 3, 3)


def _zero_gamma(make: Make) -> Expr:
    """TVM's FoldScaleAxis divides by gamma here and gives NaN."""
    gamma = np.array([0.0, 1.5, -0.5, 0.0]).astype(make.dtype)
    rest = (make.constant(4), make.constant(4), make.constant(4, low=0.5))
    x = relay.nn.batch_norm(make.input(2, 4, 6, 7), tensor(gamma), *rest)[0]
    return make.conv(relay.nn.relu(x), 8, 4, 3, 3)


def _after_conv(op: str, *shape: int, left: bool = False) -> Graph:
    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 8, 8), 8, 4, 1, 1)
        known = make.constant(*shape, low=0.5, high=1.5)
        call = getattr(relay, op)
        return make.batch_norm(call(known, y) if left else call(y, known), 8)

    return build


def _negated(make: Make) -> Expr:
    return make.batch_norm(relay.negative(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)), 8)


def _by_hand(make: Make) -> Expr:
    """BatchNorm written out: statistics computed from constants."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    mean, var = make.constant(8, 1, 1), make.constant(8, 1, 1, low=0.3, high=2.0)
    inv = relay.divide(
        make.constant(8, 1, 1),
        relay.sqrt(relay.add(var, tensor(np.asarray(1e-5, make.dtype)))),
    )
    return relay.nn.relu(relay.multiply(relay.subtract(y, mean), inv))


def _mean_std(make: Make) -> Expr:
    x = relay.divide(
        relay.subtract(make.input(2, 3, 6, 7), make.constant(3, 1, 1)),
        make.constant(1, 3, 1, 1, low=0.5, high=1.5),
    )
    return make.batch_norm(make.conv(x, 8, 3, 3, 3, padding=(1, 1)), 8)


def _own_square(make: Make) -> Expr:
    """TVM's own pipeline gets ``(conv + relu(conv)) * -1`` wrong."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return relay.multiply(relay.add(y, relay.nn.relu(y)), tensor(np.asarray(-1.0, make.dtype)))


def _chain(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3, bias=True)
    return make.batch_norm(make.batch_norm(y, 8), 8)


def _alone(make: Make) -> Expr:
    return relay.sigmoid(make.batch_norm(make.input(2, 4, 6, 7), 4))


def _two_alone(make: Make) -> Expr:
    return relay.sigmoid(make.batch_norm(make.batch_norm(make.input(2, 4, 6, 7), 4), 4))


CASES = [
    Case("bn-conv", _before_conv()),
    Case("bn-conv-padded", _before_conv(padding=(1, 1))),
    Case("bn-conv-grouped", _before_conv(groups=2)),
    Case("bn-conv-strided-padded", _before_conv(padding=(2, 1), strides=(2, 2))),
    Case("bn-conv-asymmetric", _before_conv(padding=(1, 0, 2, 1))),
    Case("bn-conv1d-padded", _before_conv(1, padding=(1,))),
    Case("bn-conv3d-padded", _before_conv(3, padding=(1, 1, 1))),
    Case("bn-conv-last", _before_conv_last(0)),
    Case("bn-conv-last-padded", _before_conv_last(1)),
    Case(
        "bn-transposed",
        _before_transposed(3, 2),
        folded=0,
        lowered=1,
        left=2,
        codes=(Code.NO_LINEAR_BEFORE, Code.COSTS_MORE),
    ),
    Case("bn-transposed-pointwise", _before_transposed(1, 1)),
    Case("bn-dense", _before_dense),
    Case("bn-pad-conv", _before_padded),
    Case(
        "bn-relu-conv",
        _zero_gamma,
        folded=0,
        lowered=1,
        left=2,
        codes=(Code.NONZERO_SHIFT, Code.NO_LINEAR_BEFORE),
    ),
    Case("add-channel", _after_conv("add", 8, 1, 1)),
    Case("subtract-channel", _after_conv("subtract", 8, 1, 1)),
    Case("multiply-channel", _after_conv("multiply", 1, 8, 1, 1)),
    Case("divide-channel", _after_conv("divide", 8, 1, 1)),
    Case("constant-minus-conv", _after_conv("subtract", 8, 1, 1, left=True)),
    Case("multiply-scalar", _after_conv("multiply")),
    Case(
        "multiply-width",
        _after_conv("multiply", 8),
        left=2,
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
    ),
    Case("negative", _negated),
    Case("by-hand", _by_hand, folded=0),
    Case("mean-std", _mean_std, left=2),
    Case("own-square", _own_square, folded=0, left=2),
    Case("conv-bn-bn", _chain, folded=2),
    Case("alone", _alone, folded=0, lowered=1, left=2, codes=(Code.NO_LINEAR_BEFORE,)),
    Case(
        "two-alone",
        _two_alone,
        folded=0,
        lowered=1,
        merged=1,
        left=2,
        codes=(Code.NO_LINEAR_BEFORE,),
    ),
]
