"""TVM's own suites on folding scales, replayed: the right answer, and no more ops than TVM leaves.

Sources read: ``tests/python/relay/test_pass_fold_scale_axis.py``, its cases without blocked
layouts, and ``test_pass_simplify_inference.py``, stated anew, with constants for the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from graphs import Expr, Make, affine_ops, inputs_of, module_of, relative
from test_battery import flat
from tvm import relay
from tvm_random import relay_writer as interpreter

from bnfx.tvm.relay import FoldBatchNorm

Graph = Callable[[Make], Expr]
relu = relay.nn.relu


def _last(make: Make, x: Expr, channels: int, groups: int = 1) -> Expr:
    """A 3x3 convolution with channels last."""
    weight = make.constant(3, 3, channels // groups, channels)
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWOI" if groups > 1 else "HWIO"}
    if groups > 1:
        weight = make.constant(3, 3, channels, 1)
    options = {"kernel_size": (3, 3), "padding": (1, 1), "groups": groups, **layouts}
    return relay.nn.conv2d(x, weight, channels=channels, **options)


def _first(make: Make, x: Expr, out: int, inside: int, rank: int = 2) -> Expr:
    return make.conv(x, out, inside, *(3,) * rank, padding=(1,) * rank)


def _scale(make: Make, *shape: int) -> Expr:
    return make.constant(*shape, low=0.5, high=1.0)


def _negative(make: Make, *shape: int) -> Expr:
    return make.constant(*shape, low=-1.0, high=-0.5)


def _forward(rank: int) -> Graph:
    def build(make: Make) -> Expr:
        ones = (1,) * rank
        x = relu(make.input(2, 4, *(5,) * rank) * _scale(make, 4, *ones))
        return _first(make, x + make.constant(4, *ones), 2, 4, rank)

    return build


def _forward_two_paths(make: Make) -> Expr:
    x = relu(_scale(make, 3) * make.input(2, 4, 5, 3)) - make.constant(3)
    return _last(make, x, 3, groups=3) + _last(make, x, 3, groups=3)


def _forward_leaky(make: Make) -> Expr:
    x = make.input(2, 5, 6, 4) * _scale(make, 4)
    leaky = relay.maximum(x, x * relay.Constant(tvm.nd.array(np.asarray(0.1))))
    return _last(make, leaky, 4) + x


def _forward_relu(scale: Callable[[Make], Expr]) -> Graph:
    def build(make: Make) -> Expr:
        x = make.input(2, 5, 6, 4) * scale(make)
        return _last(make, relu(x), 4) + x

    return build


def _forward_let(make: Make) -> Expr:
    x = relu(make.input(2, 5, 6, 4) * _scale(make, 4)) + make.constant(4)
    variable = relay.Var("x_var")
    return relay.Let(variable, x, _last(make, variable, 4) + x)


def _forward_negative(make: Make) -> Expr:
    return _first(make, make.input(2, 4, 5, 5) * _negative(make, 4, 1, 1), 4, 4)


def _forward_dense(rows: int, inside: int, out: int) -> Graph:
    def build(make: Make) -> Expr:
        x = relu(make.input(rows, inside) * _scale(make, inside)) + make.constant(inside)
        return relay.nn.dense(x, make.constant(out, inside))

    return build


def _backward(rank: int) -> Graph:
    def build(make: Make) -> Expr:
        ones = (1,) * rank
        y = _first(make, make.input(2, 4, *(5,) * rank), 8, 4, rank)
        return relu(y + make.constant(8, *ones)) * _scale(make, 8, *ones)

    return build


def _backward_two_paths(make: Make) -> Expr:
    x = make.input(2, 4, 5, 5)
    one, other = (relu(_first(make, x, 8, 4)) for _ in range(2))
    return (one + other) * _scale(make, 8, 1, 1)


def _backward_constant(make: Make) -> Expr:
    y = _first(make, make.input(1, 3, 7, 7), 16, 3) + make.constant(16, 1, 1)
    return relu(y) * relay.Constant(tvm.nd.array(np.asarray(2.0)))


def _backward_two_readers(make: Make) -> Expr:
    scale = _scale(make, 4, 1, 1)
    y = relu(_first(make, make.input(2, 4, 5, 5), 4, 4) * scale)
    one, other = (relu(_first(make, y, 4, 4) * scale) for _ in range(2))
    return one + other


def _backward_other_axis(make: Make) -> Expr:
    """Two paths whose channels are on different axes, of the same size."""
    x = make.input(4, 4, 5, 5)
    one, other = (relu(_first(make, x, 4, 4)) for _ in range(2))
    return (one + relay.transpose(other, (1, 0, 2, 3))) * _scale(make, 4, 1, 1)


def _backward_read_twice(make: Make) -> Expr:
    y = _first(make, make.input(4, 4, 5, 5), 4, 4)
    return y * _scale(make, 4, 1, 1) + relu(y)


def _backward_relu(scale: Callable[[Make], Expr]) -> Graph:
    def build(make: Make) -> Expr:
        return relu(_first(make, make.input(4, 4, 5, 5), 4, 4)) * scale(make)

    return build


def _backward_negative(make: Make) -> Expr:
    return _first(make, make.input(2, 4, 5, 5), 8, 4) * _negative(make, 8, 1, 1)


def _backward_dense(rows: int, inside: int, out: int) -> Graph:
    def build(make: Make) -> Expr:
        y = relay.nn.dense(make.input(rows, inside), make.constant(out, inside))
        return relu(y + make.constant(out)) * _scale(make, out)

    return build


def _backward_bias_add(make: Make) -> Expr:
    y = relay.nn.bias_add(_first(make, make.input(2, 4, 5, 5), 4, 4), make.constant(4))
    return relu(y) * _scale(make, 4, 1, 1)


def _simplified(rank: int, axis: int, steps: int) -> Graph:
    """BatchNorms behind a sum with 1, on any axis."""

    def build(make: Make) -> Expr:
        y = make.input(*(4,) * rank)
        for _ in range(steps):
            one = relay.Constant(tvm.nd.array(np.asarray(1.0)))
            y = make.batch_norm(y + one, 4, axis=axis, epsilon=0.01)
        return y

    return build


def _given(*shape: int) -> Callable[[Make], Expr]:
    return lambda make: make.input(*shape, name="scale")


CASES: dict[str, Graph] = {
    "fwd-simple": _forward(2),
    "fwd-conv3d": _forward(3),
    "fwd-dual-path": _forward_two_paths,
    "fwd-fail": _forward_leaky,
    "fwd-relu-fail-input": _forward_relu(_given(4)),
    "fwd-relu-fail-negative": _forward_relu(lambda make: _negative(make, 4)),
    "fwd-let-fail": _forward_let,
    "fwd-negative-scale": _forward_negative,
    "fwd-dense-2": _forward_dense(2, 4, 3),
    "fwd-dense-3": _forward_dense(3, 5, 4),
    "bwd-simple": _backward(2),
    "bwd-conv3d": _backward(3),
    "bwd-dual-path": _backward_two_paths,
    "bwd-simple-constant": _backward_constant,
    "bwd-dual-consumer": _backward_two_readers,
    "bwd-fail-axis": _backward_other_axis,
    "bwd-fail-readers": _backward_read_twice,
    "bwd-relu-fail-input": _backward_relu(_given(4, 1, 1)),
    "bwd-relu-fail-negative": _backward_relu(lambda make: _negative(make, 4, 1, 1)),
    "bwd-negative-scale": _backward_negative,
    "bwd-dense-2": _backward_dense(2, 4, 3),
    "bwd-dense-3": _backward_dense(3, 5, 4),
    "bwd-bias-add": _backward_bias_add,
    "simplify-2-1-1": _simplified(2, 1, 1),
    "simplify-4-1-1": _simplified(4, 1, 1),
    "simplify-4-0-3": _simplified(4, 0, 3),
}


def of_tvm(module: tvm.IRModule) -> tvm.IRModule:
    """What TVM's own passes make of it."""
    passes = [
        relay.transform.SimplifyInference(),
        relay.transform.FoldConstant(),
        relay.transform.FoldScaleAxis(),
        relay.transform.FoldConstant(),
    ]
    with tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(module)


@pytest.mark.parametrize("name", CASES)
def test_replayed(name: str) -> None:
    module = module_of(CASES[name](Make(3)))
    inputs: list[Any] = list(inputs_of(module).values())
    folded = FoldBatchNorm()(module)
    theirs = flat(interpreter.run(module, *inputs))
    assert relative(flat(interpreter.run(folded, *inputs)), theirs) < 1e-13
    assert affine_ops(folded) <= affine_ops(of_tvm(module))


@pytest.mark.parametrize("before", [False, True])
def test_a_blocked_layout_is_left_alone(before: bool) -> None:
    """TVM folds into it; bnfx does not read such weights, and changes nothing."""
    make = Make(3)
    x = make.input(2, 2, 5, 5, 2)
    scale = _scale(make, 1, 2, 1, 1, 2)
    layouts = {"data_layout": "NCHW2c", "kernel_layout": "OIHW2i2o"}
    options = {"channels": 4, "kernel_size": (3, 3), "padding": (1, 1), **layouts}
    weight = make.constant(2, 2, 3, 3, 2, 2)
    y = relay.nn.conv2d(x * scale if before else x, weight, **options)
    module = module_of(y if before else y * scale)
    assert tvm.ir.structural_equal(FoldBatchNorm()(module), module)
