"""The graphs that TVM's FoldBatchnormToConv2D gets wrong, or leaves: bnfx folds each, rightly.

Errors of upstream were measured on apache-tvm 0.27 (docs/tvm_relax.md); where upstream is wrong,
the test shows that too, so that it says when that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tvm
from relax.graphs import Expr, Make, count, inputs_of, outputs, relative, same, unfolded
from tvm import relax

import bnfx.tvm
from bnfx.tvm.relax import FoldBatchNorm


def _axis(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 8, 8), 8, 4, 1, 1)  # C == H
    return make.batch_norm(y, 8, axis=2)


def _options(**options: Any) -> Callable[[Make], Expr]:
    def build(make: Make) -> Expr:
        return make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8, **options)

    return build


def _nhwc(make: Make) -> Expr:
    """Data NHWC, the kernel OIHW: upstream looks at the kernel's layout alone."""
    x, weight = make.input(2, 6, 8, 4), make.constant(8, 4, 1, 1)
    y = make.call("nn.conv2d", x, weight, data_layout="NHWC", kernel_layout="OIHW")
    return make.batch_norm(y, 8, axis=3)


def _bias(make: Make) -> Expr:
    return make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3, bias=True), 8)


def _shared(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return relax.Tuple([make.batch_norm(y, 8), make.call("nn.relu", y)])


def _upstream(module: tvm.IRModule) -> tvm.IRModule:
    return relax.transform.FoldBatchnormToConv2D()(module)


@pytest.mark.one_in(2)
# What bnfx leaves: convolutions, BatchNorms; and whether upstream's answer is right.
@pytest.mark.parametrize(
    ("build", "left", "upstream_is_right"),
    [
        pytest.param(_axis, (1, 0), False, id="axis"),
        pytest.param(_options(center=False), (1, 0), False, id="center"),
        pytest.param(_options(scale=False), (1, 0), False, id="scale"),
        pytest.param(_options(training=True), (1, 1), False, id="training"),
        pytest.param(_nhwc, (1, 0), False, id="nhwc"),
        pytest.param(_bias, (1, 0), True, id="bias"),
        pytest.param(_shared, (1, 0), True, id="shared"),
    ],
)
def test_upstreams_cases(
    build: Callable[[Make], Expr], left: tuple[int, int], upstream_is_right: bool
) -> None:
    module = Make(3, "float32").module(build)
    inputs = inputs_of(module)
    theirs = outputs(unfolded(module), inputs)

    folded = FoldBatchNorm()(module)
    found = count(folded)
    assert (found["nn.conv2d"], found["nn.batch_norm"]) == left
    ours = outputs(bnfx.tvm.build(module, "llvm"), inputs)
    assert relative(ours, theirs) < 1e-5

    try:
        wrong = outputs(unfolded(_upstream(module)), inputs)
        right = relative(wrong, theirs) < 1e-3
    except Exception:
        right = False  # it broke the module
    assert right is upstream_is_right


def test_upstream_never_matches_a_bias_and_doubles_a_shared_convolution() -> None:
    make = Make(3, "float32")
    assert count(_upstream(make.module(_bias)))["nn.batch_norm"] == 1
    assert count(_upstream(Make(3, "float32").module(_shared)))["nn.conv2d"] == 2


def test_parameters_that_are_inputs_are_left_to_decompose_ops() -> None:
    """``test_transform_decompose_ops``: TVM decomposes what has no constants; nothing is folded."""

    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
        statistics = [make.input(8, name=name) for name in ("gamma", "beta", "mean", "var")]
        return make.emit(make.call("nn.batch_norm", y, *statistics, axis=1, training=False)[0])

    module = Make(3, "float32").module(build)
    assert same(FoldBatchNorm()(module), module)


def test_each_function_of_a_module_is_folded() -> None:
    """``test_batch_norm_multiple_functions``."""
    one, two = (Make(seed, "float32").module(_bias) for seed in (3, 4))
    other = two["main"].with_attr("global_symbol", "main1")
    folded = FoldBatchNorm()(tvm.IRModule({"main": one["main"], "main1": other}))
    assert (count(folded)["nn.conv2d"], count(folded)["nn.batch_norm"]) == (2, 0)
