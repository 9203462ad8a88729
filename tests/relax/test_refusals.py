"""Each reason to leave a BatchNorm alone: its code, and an unchanged graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax.graphs import Expr, Make, count, inputs_of, outputs, pair, relative, same, unfolded
from tvm import relax

import bnfx
import bnfx.tvm
from bnfx import Code
from bnfx.passes.relax.compat import TensorType, constant
from bnfx.passes.report import RewriteWarning
from bnfx.tvm.relax import FoldBatchNorm


def report_of(module: tvm.IRModule) -> tuple[bnfx.Report, tvm.IRModule]:
    fold = FoldBatchNorm()
    folded = fold(module)
    assert fold.report is not None
    return fold.report, folded


def codes(report: bnfx.Report) -> set[Code]:
    return {refusal.code for verdict in report.verdicts for refusal in verdict.refusals}


def _conv(make: Make) -> Expr:
    return make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)


def _moving_statistics_read(make: Make) -> Expr:
    y = make.batch_norm_call(_conv(make), 8)
    return pair(make.emit(y[0]), make.emit(y[1]))


def _whole_tuple_returned(make: Make) -> Expr:
    return make.batch_norm_call(_conv(make), 8)


def _free_statistics(make: Make) -> Expr:
    names = [make.input(8, name=name) for name in ("gamma", "beta", "mean", "var")]
    y = make.call("nn.batch_norm", _conv(make), *names, axis=1, training=False)
    return make.emit(y[0])


def _training(make: Make) -> Expr:
    return make.batch_norm(_conv(make), 8, training=True)


def _negative_variance(make: Make) -> Expr:
    var = constant(np.full(8, -1.0, make.dtype))
    three = (make.constant(8) for _ in range(3))
    y = make.call("nn.batch_norm", _conv(make), *three, var, axis=1, training=False)
    return make.emit(y[0])


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (_moving_statistics_read, Code.UNSUPPORTED_FORM),
        (_whole_tuple_returned, Code.UNSUPPORTED_FORM),
        (_free_statistics, Code.NOT_A_PARAMETER),
        (_training, Code.TRAINING_MODE),
        (_negative_variance, Code.NON_FINITE),
    ],
)
def test_kept(build: Callable[[Make], Expr], code: Code) -> None:
    module = Make(0).module(build)
    report, folded = report_of(module)
    assert report.count("kept") == 1
    assert code in codes(report)
    assert folded is module or same(folded, module)


def test_training_is_not_folded_even_without_a_convolution() -> None:
    """Upstream's pass and its decomposition for inference both ignore the attribute."""
    module = Make(0).module(lambda make: make.batch_norm(make.input(4, 3, 5, 5), 3, training=True))
    report, folded = report_of(module)
    assert codes(report) == {Code.TRAINING_MODE}
    assert count(folded)["nn.batch_norm"] == 1


def test_a_free_weight_is_named() -> None:
    def build(make: Make) -> Expr:
        weight = make.input(8, 4, 3, 3, name="weight")
        return make.batch_norm(make.call("nn.conv2d", make.input(2, 4, 6, 7), weight), 8)

    report, folded = report_of(Make(0).module(build))
    assert report.count("lowered") == 1
    (verdict,) = report.verdicts
    assert any("the parameter weight" in refusal.reason for refusal in verdict.refusals)
    assert count(folded)["nn.conv2d"] == 1


def _blocked(make: Make) -> Expr:
    """A kernel that was chosen already."""
    x = make.call(
        "layout_transform", make.input(1, 8, 6, 6), lambda n, c, h, w: (n, c * 0, h, w, c)
    )
    layout = {"data_layout": "NCHW8c", "kernel_layout": "OIHW8i8o", "out_layout": "NCHW8c"}
    y = make.call("nn.conv2d", x, make.constant(1, 1, 1, 1, 8, 8), **layout)
    back = make.call("layout_transform", y, lambda n, o, h, w, c: (n, o * 8 + c, h, w))
    return make.batch_norm(back, 8)


def _other_layout_out(make: Make) -> Expr:
    y = make.call("nn.conv2d", make.input(1, 4, 6, 6), make.constant(8, 4, 1, 1), out_layout="NHWC")
    return make.batch_norm(y, 8, axis=3)


@pytest.mark.parametrize("build", [_blocked, _other_layout_out])
def test_layouts_that_are_not_read(build: Callable[[Make], Expr]) -> None:
    report, folded = report_of(Make(0).module(build))
    assert report.count("lowered") == 1
    assert count(folded)["nn.batch_norm"] == 0


def _blocked_volume(make: Make, op: str) -> Expr:
    """One of three dimensions, beside what can be folded."""
    layout = {"layout" if "pool" in op else "data_layout": "NCDHW8c"}
    weights = []
    if op == "nn.conv3d":
        weights.append(make.constant(1, 1, 1, 1, 1, 8, 8))
        layout |= {"kernel_layout": "OIDHW8i8o", "out_layout": "NCDHW8c"}
    y = make.call(op, make.input(1, 1, 4, 4, 4, 8), *weights, **layout)
    return pair(y, make.batch_norm(make.conv(make.input(2, 4, 6, 7, name="z"), 8, 4, 3, 3), 8))


@pytest.mark.parametrize("op", ["nn.conv3d", "nn.max_pool3d", "nn.avg_pool3d"])
def test_blocks_of_volumes_do_not_keep_others(op: str) -> None:
    report, folded = report_of(Make(0).module(lambda make: _blocked_volume(make, op)))
    assert report.count("folded") == 1
    assert count(folded)["nn.batch_norm"] == 0


def test_half_precision_that_would_overflow_is_left() -> None:
    def build(make: Make) -> Expr:
        weight = constant(np.full((8, 4, 1, 1), 3e4, make.dtype))
        y = make.call("nn.conv2d", make.input(2, 4, 6, 7), weight)
        ones, zeros = (constant(np.full(8, n, make.dtype)) for n in (4e3, 0.0))
        var = constant(np.full(8, 1e-2, make.dtype))
        norm = (ones, zeros, zeros, var)
        whole = make.call("nn.batch_norm", y, *norm, axis=1, training=False, epsilon=0.0)
        return make.emit(whole[0])

    report, folded = report_of(Make(0, "float16").module(build))
    assert Code.OVERFLOW in codes(report)
    assert report.count("folded") == 0
    assert count(folded)["astype"] == 2  # the multiply-add runs in float32


def test_mixed_precision_is_left() -> None:
    """A convolution of float16 that gives float32."""

    def build(make: Make) -> Expr:
        x = make.input(2, 4, 6, 7, dtype="float16")
        weight = constant(make.random.normal(size=(8, 4, 1, 1)).astype("float16"))
        return make.batch_norm(make.call("nn.conv2d", x, weight, out_dtype="float32"), 8)

    report, _ = report_of(Make(0, "float32").module(build))
    assert report.count("lowered") == 1
    assert Code.DTYPE_CHANGE in codes(report)


def test_a_function_of_a_code_generator_is_left() -> None:
    module = Make(0).module(lambda make: make.batch_norm(_conv(make), 8))
    owned = module["main"].with_attr("Composite", "acc.conv_bn")
    module.update_func(module.get_global_var("main"), owned)
    report, folded = report_of(module)
    assert codes(report) == {Code.NESTED_GRAPH}
    assert report.count("kept") == 1
    assert folded is module or same(folded, module)


def test_values_on_devices_of_their_own_are_left() -> None:
    kind = getattr(relax, "VDevice", None) or tvm.ir.global_info.VDevice
    device = kind("llvm", 0, "global")

    def build(make: Make) -> Expr:
        x = relax.Var("x", TensorType((2, 4, 6, 7), make.dtype, device))
        make.inputs.append(x)
        return make.batch_norm(make.conv(x, 8, 4, 3, 3), 8)

    make = Make(0)
    module = tvm.IRModule(global_infos={"vdevice": [device]})
    make.builder = relax.BlockBuilder(module)
    report, folded = report_of(make.module(build))
    assert codes(report) == {Code.UNSUPPORTED_FORM}
    assert count(folded)["nn.batch_norm"] == 1


def test_sizes_that_may_differ_are_no_sum() -> None:
    """Two batches of unknown size may broadcast: their sum is not that of two branches."""

    def build(make: Make) -> Expr:
        sizes = (tvm.tirx.Var("n", "int64"), tvm.tirx.Var("n", "int64"))  # one name, two sizes
        x, z = (make.input(n, 4, 6, 7, name=name) for n, name in zip(sizes, "xz", strict=True))
        y = make.call("add", make.conv(x, 8, 4, 1, 1), make.conv(z, 8, 4, 1, 1))
        return make.batch_norm(y, 8)

    report, _ = report_of(Make(0).module(build))
    assert report.count("folded") == 0


@pytest.mark.slow
def test_deep_networks_need_no_recursion() -> None:
    def build(make: Make) -> Expr:
        y = make.input(1, 2, 3)
        for _ in range(400):
            y = make.call("nn.relu", make.batch_norm(make.conv(y, 2, 2, 1), 2))
        return y

    report, folded = report_of(Make(0).module(build))
    assert report.count("folded") == 400
    assert count(folded)["nn.batch_norm"] == 0


def test_long_chains_of_constants_need_no_recursion() -> None:
    def build(make: Make) -> Expr:
        bias = make.constant(8, 1, 1)
        for _ in range(3000):
            bias = make.call("negative", bias)
        return make.batch_norm(make.call("add", _conv(make), bias), 8)

    report, folded = report_of(Make(0).module(build))
    assert report.count("folded") == 1
    assert count(folded) == {"nn.conv2d": 1, "add": 1}


def test_what_writes_to_memory_keeps_its_input() -> None:
    """A packed function outside of a dataflow block may write to what it is given.

    ``conv(bn(x))`` reads ``x`` before the write; a convolution with the BatchNorm in it, which
    stands behind, would read it after.
    """

    def write(x: Any) -> None:
        array = x.numpy()
        x.copyfrom(array * 0 + 7)

    tvm.register_global_func("bnfx.test.write", write, override=True)
    make = Make(0)
    with make.builder.function("main", pure=False):
        x = make.emit(make.call("nn.relu", make.input(2, 4, 6, 7)))
        y = make.batch_norm(x, 4)
        make.emit(_packed("bnfx.test.write", x))
        z = make.conv(y, 8, 4, 3, 3)
        make.builder.emit_func_output(z, params=make.inputs)
    module = make.builder.get()
    report, _ = report_of(module)
    assert Code.MUTATED_IN_GRAPH in codes(report)
    inputs = inputs_of(module)
    ours = outputs(bnfx.tvm.build(module, "llvm"), inputs)
    assert relative(ours, outputs(unfolded(module), inputs)) < 1e-10


def _packed(name: str, *args: Expr) -> Expr:
    kind = getattr(relax, "ObjectStructInfo", None) or relax.ObjectType
    return relax.Call(relax.ExternFunc(name), list(args), None, [kind()])


def test_what_has_side_effects_runs_once_and_in_order() -> None:
    """Nobody reads what a packed function returns; it must be called all the same."""
    seen: list[float] = []
    tvm.register_global_func("bnfx.test.see", lambda x: seen.append(float(x.numpy().sum())), True)
    make = Make(0)
    with make.builder.function("main", pure=False):
        y = make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
        make.emit(_packed("bnfx.test.see", y))
        z = make.call("nn.relu", y)
        make.builder.emit_func_output(z, params=make.inputs)
    module = make.builder.get()
    report, _ = report_of(module)
    assert report.count("folded") == 1
    inputs = inputs_of(module)
    ours = outputs(bnfx.tvm.build(module, "llvm"), inputs)
    theirs = outputs(unfolded(module), inputs)
    assert relative(ours, theirs) < 1e-10
    assert len(seen) == 2
    assert seen[0] == pytest.approx(seen[1])


def test_tensor_programs_of_the_users_are_kept() -> None:
    """``call_tir`` between a convolution and a BatchNorm: opaque, and it still runs."""
    from tvm import te

    def double(x: Any) -> Any:
        return te.compute(x.shape, lambda *axes: x(*axes) * 2.0, name="double")

    make = Make(0)
    with make.builder.function("main"):
        with make.builder.dataflow():
            y = make.batch_norm(_conv(make), 8)
            z = make.batch_norm(make.builder.emit_te(double, y), 8)
            out = make.builder.emit_output(z)
        make.builder.emit_func_output(out, params=make.inputs)
    module = make.builder.get()
    report, _ = report_of(module)
    assert (report.count("folded"), report.count("lowered")) == (1, 1)
    inputs = inputs_of(module)
    ours = outputs(bnfx.tvm.build(module, "llvm"), inputs)
    assert relative(ours, outputs(unfolded(module), inputs)) < 1e-10


def test_a_broken_writer_leaves_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.passes.relax import rewrite

    def broken(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(rewrite, "lower", broken)
    module = Make(0).module(lambda make: make.batch_norm(_conv(make), 8))
    with pytest.warns(RewriteWarning, match="broken on purpose"):
        report, folded = report_of(module)
    assert same(folded, module)
    assert codes(report) == {Code.INTERNAL_ERROR}


@pytest.mark.parametrize("kind", ["type", "form"])
def test_a_wrong_result_leaves_the_function(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.passes.relax import rewrite

    real = rewrite.lower

    def wrong(*args: Any) -> Expr:
        body = real(*args)
        if kind == "type":
            return relax.SeqExpr(body.blocks, relax.Tuple([body.body]))
        return relax.SeqExpr([], body.body)  # what it reads is not bound

    monkeypatch.setattr(rewrite, "lower", wrong)
    module = Make(0).module(lambda make: make.batch_norm(_conv(make), 8))
    with pytest.warns(RewriteWarning, match="checking the result failed"):
        report, folded = report_of(module)
    assert same(folded, module)
    assert codes(report) == {Code.INTERNAL_ERROR}


def test_an_unknown_rank_is_left() -> None:
    def build(make: Make) -> Expr:
        x = relax.Var("x", TensorType(ndim=4, dtype=make.dtype))
        make.inputs.append(x)
        y = make.call("nn.conv2d", x, make.constant(8, 4, 3, 3))
        return make.batch_norm(y, 8)

    report, folded = report_of(Make(0).module(build))
    assert report.count("folded") == 0
    assert count(folded)["nn.conv2d"] == 1
