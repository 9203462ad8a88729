"""Each reason to leave a BatchNorm alone: its code, and an unchanged graph."""

from __future__ import annotations

from collections.abc import Callable

import cases_merge
import numpy as np
import pytest
import tvm
from graphs import Case, Expr, Make, count, inputs_of, module_of, relative, run_vm, tensor
from tvm import relay

import bnfx
import bnfx.tvm
from bnfx import Code
from bnfx.tvm.relay import FoldBatchNorm


def report_of(module: tvm.IRModule) -> tuple[bnfx.Report, tvm.IRModule]:
    fold = FoldBatchNorm()
    folded = fold(module)
    assert fold.report is not None
    return fold.report, folded


def codes(report: bnfx.Report) -> set[Code]:
    return {refusal.code for verdict in report.verdicts for refusal in verdict.refusals}


def _moving_statistics_read(make: Make) -> Expr:
    y = make.batch_norm_call(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    return relay.Tuple([y[0], y[1]])


def _whole_tuple_returned(make: Make) -> Expr:
    return make.batch_norm_call(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8).astuple()


def _free_statistics(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    names = [make.input(8, name=name) for name in ("gamma", "beta", "mean", "var")]
    return relay.nn.batch_norm(y, *names)[0]


def _free_weight(make: Make) -> Expr:
    weight = make.input(8, 4, 3, 3, name="weight")
    y = relay.nn.conv2d(make.input(2, 4, 6, 7), weight, channels=8, kernel_size=(3, 3))
    return make.batch_norm(y, 8)


def _negative_variance(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    var = tensor(np.full(8, -1.0, make.dtype))
    return relay.nn.batch_norm(y, *(make.constant(8) for _ in range(3)), var)[0]


def _reference(make: Make) -> Expr:
    """A function with state."""
    y = make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    return relay.RefRead(relay.RefCreate(y))


def _captured(make: Make) -> Expr:
    """A closure that reads what ``let`` binds."""
    a = relay.var("a")
    inner = relay.Function([], relay.nn.relu(a))
    body = relay.add(make.batch_norm(a, 8), relay.Call(inner, []))
    return relay.Let(a, make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), body)


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (_moving_statistics_read, Code.UNSUPPORTED_FORM),
        (_whole_tuple_returned, Code.UNSUPPORTED_FORM),
        (_free_statistics, Code.NOT_A_PARAMETER),
        (_negative_variance, Code.NON_FINITE),
        (_reference, Code.NESTED_GRAPH),
        (_captured, Code.NESTED_GRAPH),
    ],
)
def test_kept(build: Callable[[Make], Expr], code: Code) -> None:
    module = module_of(build(Make(0)))
    report, folded = report_of(module)
    assert report.count("kept") == 1
    assert code in codes(report)
    assert tvm.ir.structural_equal(folded, module)


def test_a_free_weight_is_named() -> None:
    report, folded = report_of(module_of(_free_weight(Make(0))))
    assert report.count("lowered") == 1
    (verdict,) = report.verdicts
    assert any("the parameter weight" in refusal.reason for refusal in verdict.refusals)
    assert count(folded)["nn.conv2d"] == 1


def test_half_precision_that_would_overflow_is_left() -> None:
    report, folded = report_of(cases_merge.OVERFLOWS.module())
    assert Code.OVERFLOW in codes(report)
    assert report.count("folded") == 0
    assert count(folded)["cast"] == 2  # the multiply-add runs in float32


def test_deep_networks_need_no_recursion() -> None:
    report, folded = report_of(cases_merge.DEEP.module())
    assert report.count("folded") == 400
    assert count(folded)["nn.batch_norm"] == 0


def _dynamic_conv(make: Make) -> Expr:
    x = make.input(relay.Any(), 4, 6, 7)
    return make.batch_norm(make.conv(x, 8, 4, 3, 3, padding=(1, 1)), 8)


def _dynamic_flatten(make: Make) -> Expr:
    x = make.input(relay.Any(), 4, 6, 7)
    y = relay.nn.batch_flatten(relay.nn.global_avg_pool2d(make.conv(x, 8, 4, 3, 3)))
    return make.batch_norm(y, 8)


def _dynamic_reshape(make: Make) -> Expr:
    x = make.input(relay.Any(), 4, 6, 7)
    y = relay.reshape(make.conv(x, 8, 4, 3, 3), (-1, 8, 20))
    return make.batch_norm(y, 8)


def _dynamic_arms(make: Make) -> Expr:
    x = make.input(relay.Any(), 8, 6, 7)
    arms = (make.conv(x, 8, 8, 3, 3, padding=(1, 1)), make.conv(x, 8, 8, 1, 1))
    return make.batch_norm(relay.add(*arms), 8)


def _dynamic_parts(make: Make) -> Expr:
    """Concatenated, split, sliced and padded, a batch is the same batch."""
    x = make.input(relay.Any(), 4, 6, 7)
    y = relay.concatenate([make.conv(x, 4, 4, 1, 1), make.conv(x, 4, 4, 1, 1)], axis=1)
    one, _ = relay.split(make.conv(x, 16, 4, 3, 3), 2, axis=1)
    z = relay.strided_slice(make.conv(x, 9, 4, 1, 1), [1], [9], axes=[1])
    one = relay.nn.pad(one, ((0, 0), (0, 0), (1, 1), (1, 1)), pad_mode="edge")
    return make.batch_norm(relay.add(relay.add(y, one), z), 8)


def _dynamic_size(make: Make) -> Expr:
    x = make.input(2, 4, relay.Any(), 7)
    return make.conv(make.batch_norm(x, 4), 8, 4, 3, 3, padding=(1, 1))


def _dynamic_size_unpadded(make: Make) -> Expr:
    x = make.input(2, 4, relay.Any(), 7)
    return make.conv(make.batch_norm(x, 4), 8, 4, 3, 3)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("build", "folded", "code"),
    [
        (_dynamic_conv, 1, None),
        (_dynamic_flatten, 1, None),
        (_dynamic_reshape, 1, None),
        (_dynamic_arms, 1, None),
        (_dynamic_parts, 1, None),
        (_dynamic_size, 0, Code.DYNAMIC_SHAPE),
        (_dynamic_size_unpadded, 1, None),
    ],
)
def test_sizes_that_are_not_fixed(
    build: Callable[[Make], Expr], folded: int, code: Code | None
) -> None:
    module = module_of(build(Make(0)))
    report, _ = report_of(module)
    assert report.count("folded") == folded
    assert code is None or code in codes(report)
    inputs = inputs_of(module)
    with tvm.transform.PassContext(opt_level=3):
        executable = bnfx.tvm.build(module, "llvm -mtriple=x86_64-linux-gnu", executor="vm")
    with tvm.transform.PassContext(opt_level=1):
        plain = relay.vm.compile(module, "llvm -mtriple=x86_64-linux-gnu")
    assert relative(run_vm(executable, inputs), run_vm(plain, inputs)) < 1e-10


def test_sizes_that_may_differ_are_no_sum() -> None:
    """Two batches of unknown size may broadcast: their sum is not that of two branches."""
    make = Make(0)
    x, z = make.input(relay.Any(), 4, 6, 7), make.input(relay.Any(), 4, 6, 7, name="z")
    y = relay.add(make.conv(x, 8, 4, 1, 1), make.conv(z, 8, 4, 1, 1))
    report, _ = report_of(module_of(make.batch_norm(y, 8)))
    assert report.count("lowered") == 1


@pytest.mark.filterwarnings("error")
def test_constants_that_numpy_cannot_compute_are_computed() -> None:
    """Booleans have no difference in NumPy: the rest of the function is folded all the same."""
    make = Make(0)
    y = make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    yes = [tensor(np.array([True])) for _ in range(2)]
    report, folded = report_of(module_of(y * relay.cast(relay.subtract(*yes), make.dtype)))
    assert report.count("folded") == 1
    assert count(folded)["subtract"] == 1


@pytest.mark.filterwarnings("error")
def test_dense_layers_on_more_than_matrices_are_merged() -> None:
    """Relay has them, for code generators of others: TVM itself has no schedule."""
    make = Make(0)
    x = make.input(2, 3, 5, 4)
    y = relay.nn.dense(relay.nn.dense(x, make.constant(16, 4)), make.constant(4, 16))
    report, folded = report_of(module_of(make.batch_norm(y, 4, axis=3)))
    assert report.count("folded") == 1
    assert count(folded)["nn.dense"] == 1


def test_a_broken_rule_leaves_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.passes.relay import rewrite

    def broken(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(rewrite, "lower", broken)
    module = Case(
        "any", lambda make: make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    ).module()
    with pytest.warns(bnfx.passes.report.RewriteWarning, match="broken on purpose"):
        report, folded = report_of(module)
    assert tvm.ir.structural_equal(folded, module)
    assert codes(report) == {Code.INTERNAL_ERROR}


def test_a_form_that_tvm_has_no_types_for_leaves_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TVM crashed on the way out, and the fall-back with it."""
    from bnfx.passes.relay import emit

    usual = emit.usual_kernel

    def wrong(operator: object) -> emit.Kernel:
        kernel = usual(operator)  # type: ignore[arg-type]
        return emit.Kernel(kernel.layout[:-2] + kernel.layout[:-3:-1], kernel.stored)

    monkeypatch.setattr(emit, "usual_kernel", wrong)
    make = Make(0)
    x = make.input(1, 6, 3)
    options = {"data_layout": "NWC", "kernel_layout": "WIO", "groups": 3, "channels": 6}
    one = relay.nn.conv1d(x, make.constant(3, 1, 6), kernel_size=3, padding=1, **options)
    other = relay.nn.conv1d(x, make.constant(1, 1, 6), kernel_size=1, **options)
    module = module_of(relay.add(one, other))
    with pytest.warns(bnfx.passes.report.RewriteWarning, match="checking the types"):
        _, folded = report_of(module)
    assert tvm.ir.structural_equal(folded, module)


def test_a_result_of_another_type_leaves_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.passes.relay import rewrite

    real = rewrite.lower
    monkeypatch.setattr(rewrite, "lower", lambda *args: relay.nn.global_avg_pool2d(real(*args)))
    module = module_of(Make(0).batch_norm(Make(1).conv(Make(2).input(2, 4, 6, 7), 8, 4, 3, 3), 8))
    with pytest.warns(bnfx.passes.report.RewriteWarning, match="its type became"):
        report, folded = report_of(module)
    assert tvm.ir.structural_equal(folded, module)
    assert codes(report) == {Code.INTERNAL_ERROR}
