"""Parallel and serial operators, and what is not one plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from graphs import Case, Expr, Make, tensor
from tvm import relay

from bnfx import Code

Graph = Callable[[Make], Expr]


def _repvgg(make: Make) -> Expr:
    x = make.input(2, 8, 6, 7)
    wide = make.batch_norm(make.conv(x, 8, 8, 3, 3, padding=(1, 1)), 8)
    narrow = make.batch_norm(make.conv(x, 8, 8, 1, 1), 8)
    return relay.nn.relu(relay.add(relay.add(wide, narrow), make.batch_norm(x, 8)))


def _around(make: Make) -> Expr:
    """A residual connection around a BatchNorm: the convolution takes both."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return relay.nn.relu(relay.add(y, make.batch_norm(y, 8)))


def _repvgg_last(make: Make) -> Expr:
    """The same with channels last, whose merged kernel must be one that TVM builds."""
    x = make.input(2, 6, 7, 8)
    layout = {"channels": 8, "data_layout": "NHWC", "kernel_layout": "HWIO"}
    wide = relay.nn.conv2d(
        x, make.constant(3, 3, 8, 8), kernel_size=(3, 3), padding=(1, 1), **layout
    )
    narrow = relay.nn.conv2d(x, make.constant(1, 1, 8, 8), kernel_size=(1, 1), **layout)
    arms = [make.batch_norm(wide, 8, axis=3), make.batch_norm(narrow, 8, axis=3)]
    return relay.nn.relu(relay.add(relay.add(*arms), make.batch_norm(x, 8, axis=3)))


def _depthwise_last(make: Make) -> Expr:
    """Two depthwise kernels with channels last."""
    x = make.input(2, 6, 7, 8)
    layout = {"channels": 8, "groups": 8, "data_layout": "NHWC", "kernel_layout": "HWOI"}
    wide = relay.nn.conv2d(
        x, make.constant(3, 3, 8, 1), kernel_size=(3, 3), padding=(1, 1), **layout
    )
    narrow = relay.nn.conv2d(x, make.constant(1, 1, 8, 1), kernel_size=(1, 1), **layout)
    return make.batch_norm(relay.add(wide, narrow), 8, axis=3)


def _dense_pair(make: Make) -> Expr:
    x = make.input(3, 5)
    one, other = (relay.nn.dense(x, make.constant(7, 5)) for _ in range(2))
    return make.batch_norm(relay.subtract(one, other), 7)


def _serial(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 4, 4, 1, 1, bias=True)
    return make.batch_norm(make.conv(y, 8, 4, 3, 3, padding=(1, 1)), 8)


def _serial_dense(make: Make) -> Expr:
    y = relay.nn.bias_add(relay.nn.dense(make.input(3, 5), make.constant(6, 5)), make.constant(6))
    return make.batch_norm(relay.nn.dense(y, make.constant(4, 6)), 4)


def _gate(make: Make) -> Expr:
    """A scale crosses a squeeze-and-excite gate, a shift does not."""
    x = make.input(2, 4, 6, 7)
    gate = relay.sigmoid(make.conv(relay.nn.global_avg_pool2d(x), 8, 4, 1, 1))
    y = relay.multiply(make.conv(x, 8, 4, 3, 3, padding=(1, 1)), gate)
    return relay.multiply(y, make.constant(8, 1, 1))


def _let(make: Make) -> Expr:
    """The same value bound by ``let``, as ANF has it."""
    a, b, c = relay.var("a"), relay.var("b"), relay.var("c")
    conv = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    body = relay.Let(c, relay.nn.relu(b), relay.add(c, relay.sigmoid(c)))
    return relay.Let(a, conv, relay.Let(b, make.batch_norm(a, 8), body))


def _let_inside(make: Make) -> Expr:
    """``let`` in an argument: what it binds ends there, and a fold must not reach out of it."""
    a = relay.var("a")
    conv = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return make.batch_norm(relay.Let(a, conv, relay.nn.dropout(a, 0.5)), 8)


def _called(make: Make) -> Any:
    """A BatchNorm in a global function of its own."""
    inner = make.input(2, 4, 6, 7, name="inner")
    body = make.batch_norm(make.conv(inner, 8, 4, 3, 3), 8)
    name = relay.GlobalVar("block")
    x = make.input(2, 4, 6, 7)
    main = relay.Function([x], relay.nn.relu(relay.Call(name, [x])))
    module = tvm.IRModule({name: relay.Function([inner], body)})
    module = relay.transform.InferType()(module)  # its type must be known to who calls it
    module["main"] = main
    return module


def _closure(make: Make) -> Expr:
    inner = make.input(2, 4, 6, 7, name="inner")
    body = make.batch_norm(make.conv(inner, 8, 4, 3, 3), 8)
    return relay.nn.relu(relay.Call(relay.Function([inner], body), [make.input(2, 4, 6, 7)]))


def _composite(make: Make) -> Expr:
    """A code generator of its own matched it: it must stay as it is."""
    inner = make.input(2, 4, 6, 7, name="inner")
    body = make.batch_norm(make.conv(inner, 8, 4, 3, 3), 8)
    function = relay.Function([inner], body).with_attr("Composite", "acc.conv_bn")
    return relay.nn.relu(relay.Call(function, [make.input(2, 4, 6, 7)]))


def _input_read_by_closure(make: Make) -> Expr:
    """A convolution that a BatchNorm and a function read."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    inner = make.input(2, 8, 4, 5, name="inner")
    function = relay.Function([inner], relay.sigmoid(inner))
    return relay.add(make.batch_norm(y, 8), relay.Call(function, [y]))


def _deep(make: Make) -> Expr:
    """More layers than Python recurses."""
    y = make.input(1, 2, 3)
    for _ in range(400):
        y = relay.nn.relu(make.batch_norm(make.conv(y, 2, 2, 1), 2))
    return y


def _half_overflow(make: Make) -> Expr:
    y = relay.nn.conv2d(
        make.input(2, 4, 6, 7),
        tensor(np.full((8, 4, 1, 1), 3e4, make.dtype)),
        channels=8,
        kernel_size=(1, 1),
    )
    y = relay.multiply(y, tensor(np.asarray(1e-4, make.dtype)))
    var = tensor(np.full(8, 1e-2, make.dtype))
    ones = tensor(np.full(8, 4e3, make.dtype))
    zeros = tensor(np.zeros(8, make.dtype))
    return relay.nn.batch_norm(y, ones, zeros, zeros, var, epsilon=0.0)[0]


CASES = [
    Case("repvgg", _repvgg, folded=3),
    Case("around-bn", _around),
    Case("repvgg-last", _repvgg_last, folded=3),
    Case("depthwise-last", _depthwise_last),
    Case("dense-pair", _dense_pair),
    Case("serial", _serial, left=2),
    Case("serial-dense", _serial_dense),
    Case("gate", _gate, folded=0, left=1),
    Case("let", _let, left=2),
    Case("let-inside", _let_inside),
    Case("global-function", _called, executor="vm"),
    Case("closure", _closure, executor="vm"),
    Case(
        "composite", _composite, folded=0, kept=1, codes=(Code.NESTED_GRAPH,), executor="vm", left=1
    ),
    Case(
        "read-by-closure",
        _input_read_by_closure,
        folded=0,
        lowered=1,
        left=3,
        executor="vm",
        codes=(Code.OTHER_READERS,),
    ),
]
# Too slow to be built: folded, and looked at.
DEEP = Case("deep", _deep, folded=400)
OVERFLOWS = Case("half-overflow", _half_overflow, dtype="float16")
