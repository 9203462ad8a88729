"""Parallel and serial operators."""

from __future__ import annotations

from relax.graphs import Case, Expr, Make


def _repvgg(make: Make) -> Expr:
    x = make.input(2, 8, 6, 7)
    wide = make.batch_norm(make.conv(x, 8, 8, 3, 3, padding=(1, 1)), 8)
    narrow = make.batch_norm(make.conv(x, 8, 8, 1, 1), 8)
    arms = make.call("add", make.call("add", wide, narrow), make.batch_norm(x, 8))
    return make.call("nn.relu", arms)


def _repvgg_last(make: Make) -> Expr:
    x = make.input(2, 6, 7, 8)
    layout = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    wide = make.call("nn.conv2d", x, make.constant(3, 3, 8, 8), padding=(1, 1), **layout)
    narrow = make.call("nn.conv2d", x, make.constant(1, 1, 8, 8), **layout)
    arms = [make.batch_norm(arm, 8, axis=3) for arm in (wide, narrow, x)]
    return make.call("nn.relu", make.call("add", make.call("add", *arms[:2]), arms[2]))


def _linear_pair(make: Make) -> Expr:
    x = make.input(3, 5)
    return make.batch_norm(
        make.call("subtract", make.linear(x, 7, 5), make.linear(x, 7, 5, bias=True)), 7
    )


def _serial(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 4, 4, 1, 1, bias=True)
    return make.batch_norm(make.conv(y, 8, 4, 3, 3, padding=(1, 1)), 8)


def _serial_linear(make: Make) -> Expr:
    y = make.linear(make.input(3, 5), 6, 5, bias=True)
    return make.batch_norm(make.linear(y, 4, 6), 4)


def _serial_read(make: Make) -> Expr:
    """The first one's output is looked at, too: for its bias, that of the sum."""
    y = make.conv(make.input(2, 4, 6, 7), 4, 4, 1, 1, bias=True)
    z = make.batch_norm(make.conv(y, 4, 4, 1, 1), 4)
    return make.call("multiply", z, make.call("sigmoid", y))


def _gate(make: Make) -> Expr:
    """A scale crosses a squeeze-and-excite gate, a shift does not."""
    x = make.input(2, 4, 6, 7)
    pooled = make.call("mean", x, [2, 3], keepdims=True)
    gate = make.call("sigmoid", make.conv(pooled, 8, 4, 1, 1))
    y = make.call("multiply", make.conv(x, 8, 4, 3, 3, padding=(1, 1)), gate)
    return make.call("multiply", y, make.constant(8, 1, 1))


def _around(make: Make) -> Expr:
    """A residual connection around a BatchNorm: the convolution takes both."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return make.call("nn.relu", make.call("add", y, make.batch_norm(y, 8)))


CASES = [
    Case("repvgg", _repvgg, folded=3),
    Case("repvgg-last", _repvgg_last, folded=3),
    Case("linear-pair", _linear_pair),
    Case("serial", _serial, left=2),
    Case("serial-linear", _serial_linear),
    Case("serial-read", _serial_read, left=3),
    Case("gate", _gate, folded=0, left=1),
    Case("around-bn", _around),
]
