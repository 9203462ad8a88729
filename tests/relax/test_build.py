"""The pass, the pipelines, the build and the hook of bnfx.tvm.relax."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from relax.graphs import Expr, Make, count, inputs_of, outputs, relative, same, unfolded
from tvm import relax

import bnfx
import bnfx.tvm
from bnfx.errors import BuildError, OptionError
from bnfx.passes.relax.compat import TensorType, type_of
from bnfx.tvm.inspection import launches
from bnfx.tvm.relax import FoldBatchNorm, Runner, build_hook, pipeline

LLVM = tvm.target.Target("llvm")


def _graph(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3, bias=True)
    return make.call("nn.relu", make.batch_norm(y, 8))


@pytest.fixture
def module() -> tvm.IRModule:
    return Make(0).module(_graph)


def _agrees(executable: Any, module: tvm.IRModule) -> bool:
    inputs = inputs_of(module)
    error = relative(outputs(executable, inputs), outputs(unfolded(module), inputs))
    return error < 1e-10


def _names(executable: Any) -> set[str]:
    return set(launches(executable))


def test_it_is_a_pass(module: tvm.IRModule) -> None:
    fold = FoldBatchNorm()
    assert isinstance(fold, tvm.transform.Pass)
    assert fold.report is None
    both = tvm.transform.Sequential([fold, relax.transform.LegalizeOps()])(module)
    assert count(both)["nn.batch_norm"] == 0
    assert fold.report.count("folded") == 1


def test_instruments_see_it(module: tvm.IRModule) -> None:
    seen: list[str] = []

    @tvm.ir.instrument.pass_instrument
    class Watch:
        def run_before_pass(self, mod: Any, info: Any) -> None:
            seen.append(info.name)

    with tvm.transform.PassContext(instruments=[Watch()]):
        FoldBatchNorm()(module)
    assert "bnfx.FoldBatchNorm" in seen


def test_rules_are_chosen(module: tvm.IRModule) -> None:
    none = FoldBatchNorm(rules="none")
    assert none(module).same_as(module)
    assert none.report.count("kept") == 1
    lowered = FoldBatchNorm(rules=["lower-batch-norm"])
    assert count(lowered(module))["multiply"] == 1
    with pytest.raises(OptionError, match="merge-affines"):
        FoldBatchNorm(rules=["merge-affine"])


def test_reports_are_delivered(module: tvm.IRModule, tmp_path: Path) -> None:
    reports: list[bnfx.Report] = []
    FoldBatchNorm(report=reports.append)(module)
    assert [report.count("folded") for report in reports] == [1]
    FoldBatchNorm(report=tmp_path / "report.json")(module)
    assert json.loads((tmp_path / "report.json").read_text())


def test_the_registered_pipeline(module: tvm.IRModule) -> None:
    executable = tvm.compile(module, "llvm", relax_pipeline="bnfx")
    assert _names(executable) == {"fused_conv2d_add_relu"}
    assert _agrees(executable, module)


@pytest.mark.parametrize("target", ["llvm", LLVM, None])
def test_a_pipeline_for_a_target(module: tvm.IRModule, target: Any) -> None:
    executable = tvm.compile(module, LLVM, relax_pipeline=pipeline(target))
    assert "batch_norm" not in " ".join(_names(executable))
    assert _agrees(executable, module)


def test_build_returns_tvms_executable(module: tvm.IRModule, tmp_path: Path) -> None:
    executable = bnfx.tvm.build(module, "llvm")
    assert isinstance(executable, relax.VMExecutable)
    assert _names(executable) == {"fused_conv2d_add_relu"}
    path = str(tmp_path / "model.so")
    executable.export_library(path)
    inputs = inputs_of(module)
    loaded = Runner(tvm.runtime.load_module(path))(*inputs)
    np.testing.assert_array_equal(loaded, Runner(executable)(*inputs))


_ALONE = """
import sys
sys.modules["torch"] = None
import numpy as np, tvm
from tvm import relax
given, *libraries = sys.argv[1:]
for library in libraries:
    machine = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    inputs = [tvm.runtime.tensor(array) for array in np.load(given).values()]
    np.save(library + ".npy", machine["main"](*inputs).numpy())
assert "bnfx" not in sys.modules
"""


def test_libraries_run_in_a_process_without_bnfx(module: tvm.IRModule, tmp_path: Path) -> None:
    """Built to machine code and to C."""
    inputs, given = inputs_of(module), tmp_path / "in.npz"
    np.savez(given, *inputs)
    libraries = [str(tmp_path / f"{target}.so") for target in ("llvm", "c")]
    for target, library in zip(("llvm", "c"), libraries, strict=True):
        bnfx.tvm.build(module, target).export_library(library)
    words = [sys.executable, "-c", _ALONE, str(given), *libraries]
    subprocess.run(words, check=True, timeout=300)
    expected = outputs(unfolded(module), inputs)
    for library in libraries:
        assert relative([np.load(library + ".npy")], expected) < 1e-10


def test_build_takes_the_target_around_it(module: tvm.IRModule) -> None:
    with LLVM:
        assert _agrees(bnfx.tvm.build(module), module)
    with pytest.raises(BuildError, match="no target"):
        bnfx.tvm.build(module)


def test_build_binds_parameters() -> None:
    def build(make: Make) -> Expr:
        x = make.input(2, 4, 6, 7)
        weight = make.input(8, 4, 3, 3, name="weight")
        return make.batch_norm(make.call("nn.conv2d", x, weight), 8)

    module = Make(0).module(build)
    x, weight = inputs_of(module)
    reports: list[bnfx.Report] = []
    executable = bnfx.tvm.build(module, "llvm", {"weight": weight}, report=reports.append)
    assert reports[0].count("folded") == 1
    ours, theirs = outputs(executable, [x]), outputs(unfolded(module), [x, weight])
    assert relative(ours, theirs) < 1e-10


def test_build_runs_in_the_callers_context(module: tvm.IRModule) -> None:
    seen: list[str] = []

    @tvm.ir.instrument.pass_instrument
    class Watch:
        def run_before_pass(self, mod: Any, info: Any) -> None:
            seen.append(info.name)

    with tvm.transform.PassContext(instruments=[Watch()]):
        bnfx.tvm.build(module, "llvm")
    assert "FuseOps" in seen


def test_another_pipeline_runs_behind_the_fold(module: tvm.IRModule) -> None:
    executable = bnfx.tvm.build(module, "llvm", relax_pipeline="default")
    assert _names(executable) == {"conv2d", "add", "relu"}  # it fuses nothing


def test_errors_say_what_is_wrong(module: tvm.IRModule) -> None:
    with pytest.raises(TypeError, match="Relax function"):
        bnfx.tvm.relax.build(tvm.IRModule({}), "llvm")
    with pytest.raises(BuildError, match="no target that this TVM knows"):
        bnfx.tvm.build(module, "a toaster")
    with pytest.raises(BuildError, match="hexagon"):
        bnfx.tvm.build(module, "hexagon")
    with pytest.raises(BuildError, match='is for the target "cuda"'):
        bnfx.tvm.build(module, "llvm", arch="sm_90")
    for arch in ("sm_1", "90", "sm90", 90):
        with pytest.raises(BuildError, match='name it as in arch="sm_90"'):
            bnfx.tvm.build(module, "cuda", arch=arch)
    for wrong in (None, "model.onnx", {"main": module["main"]}, [module]):
        with pytest.raises(TypeError, match=f"an IRModule .*, not a {type(wrong).__name__}: make"):
            bnfx.tvm.build(wrong, "llvm")
    with pytest.raises(TypeError, match="this has none"):
        bnfx.tvm.build(tvm.IRModule({}), "llvm")


def test_several_functions_and_a_runner_for_each() -> None:
    make = Make(0)
    for name in ("main", "other"):
        make.inputs = []
        with make.builder.function(name):
            with make.builder.dataflow():
                y = make.builder.emit_output(_graph(make))
            make.builder.emit_func_output(y, params=make.inputs)
    module = make.builder.get()
    folded = FoldBatchNorm()(module)
    assert count(folded)["nn.batch_norm"] == 0
    executable, plain = bnfx.tvm.build(module, "llvm"), unfolded(module)
    inputs = inputs_of(module)
    for name in ("main", "other"):
        ours, theirs = (outputs(built, inputs, name) for built in (executable, plain))
        assert relative(ours, theirs) < 1e-10


def test_a_runner_keeps_its_outputs_and_takes_parts_of_tensors() -> None:
    """An output lives on when the next one is computed; a part of a tensor is not aligned."""
    import torch

    run = Runner(bnfx.tvm.build(Make(0, "float32").module(_graph), "llvm"))
    whole = torch.randn(3, 4, 6, 7)[:, :, :, :]
    flat = torch.randn(2 * 4 * 6 * 7 + 1)
    unaligned = flat[1:].reshape(2, 4, 6, 7)
    assert unaligned.data_ptr() % 64
    first = run(whole[:2])
    kept = first.clone()
    second = run(unaligned)
    assert torch.equal(first, kept)
    assert torch.equal(second, run(unaligned.clone()))
    ours = run(whole[:2].numpy())
    np.testing.assert_array_equal(ours, kept.numpy())


def test_the_hook_folds_in_tvms_own_build(module: tvm.IRModule) -> None:
    with build_hook() as fold:
        executable = tvm.compile(module, "llvm")
        assert fold.report.count("folded") == 1
        assert relax.build(module, "llvm") is not None
    assert "batch_norm" not in " ".join(_names(executable))
    assert _agrees(executable, module)
    assert "batch_norm" in " ".join(_names(tvm.compile(module, "llvm"))), "the hook outlived"


def test_the_hook_is_for_gpus_too(module: tvm.IRModule) -> None:
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_90"})
    with build_hook() as fold:
        executable = tvm.compile(module, target)
    assert fold.report.count("folded") == 1
    assert _names(executable) == {"fused_conv2d_add_relu"}


def test_the_hook_is_for_its_own_thread(module: tvm.IRModule) -> None:
    names: list[set[str]] = []
    with build_hook():
        other = threading.Thread(target=lambda: names.append(_names(tvm.compile(module, "llvm"))))
        other.start()
        other.join()
    assert "batch_norm" in " ".join(names[0])


def test_the_hook_ends_with_an_error(module: tvm.IRModule) -> None:
    with pytest.raises(ZeroDivisionError), build_hook():
        raise ZeroDivisionError
    assert "batch_norm" in " ".join(_names(tvm.compile(module, "llvm")))


def test_hooks_nest_and_the_inner_one_counts(module: tvm.IRModule) -> None:
    with build_hook() as outer, build_hook(rules="none") as inner:
        tvm.compile(module, "llvm")
        bnfx.tvm.build(module, "llvm")  # folds by itself, and no hook is asked
    assert outer.report is None
    assert inner.report.count("kept") == 1


def test_modules_are_left_as_they_were(module: tvm.IRModule) -> None:
    before = Make(0).module(_graph)
    for build in (
        lambda: bnfx.tvm.build(module, "llvm"),
        lambda: tvm.compile(module, "llvm", relax_pipeline="bnfx"),
    ):
        build()
        assert same(module, before)


def test_a_pass_that_the_context_disables_does_not_run(module: tvm.IRModule) -> None:
    reports: list[bnfx.Report] = []
    with tvm.transform.PassContext(disabled_pass=["bnfx.FoldBatchNorm"]):
        built = [
            bnfx.tvm.build(module, "llvm", report=reports.append),
            tvm.compile(module, "llvm", relax_pipeline=pipeline("llvm", report=reports.append)),
            tvm.compile(module, "llvm", relax_pipeline="bnfx"),
        ]
        with build_hook() as fold:
            built.append(tvm.compile(module, "llvm"))
    assert reports == []
    assert fold.report is None
    assert all("batch_norm" in " ".join(_names(executable)) for executable in built)


def test_a_module_without_types_is_normalised_in_a_copy() -> None:
    make = Make(0)
    x = relax.Var("x", TensorType((2, 3, 6, 6), "float64"))
    conv = relax.op.nn.conv2d(x, make.constant(4, 3, 3, 3), out_dtype="float64")
    rest = [make.constant(4) for _ in range(3)]
    var = make.constant(4, low=0.5, high=2.0)
    names = [relax.Var(f"v{i}") for i in range(3)]
    norm = relax.op.nn.batch_norm(names[0], *rest, var, axis=1, training=False)
    first = relax.TupleGetItem(names[1], 0)
    bindings = map(relax.VarBinding, names, (conv, norm, first))
    sequence = relax.SeqExpr([relax.BindingBlock(list(bindings))], names[2])
    nested = relax.op.nn.batch_norm(conv, *rest, var, axis=1, training=False)
    kind = TensorType((2, 4, 4, 4), "float64")
    for body in (sequence, relax.op.nn.relu(relax.TupleGetItem(nested, 0))):
        function = relax.Function([x], body, kind).with_attr("global_symbol", "main")
        module = tvm.IRModule({"main": function})
        before = str(module), [type(type_of(name)) for name in names]
        fold = FoldBatchNorm()
        folded = fold(module)
        assert fold.report.count("folded") == 1
        assert count(folded)["nn.batch_norm"] == 0
        assert (str(module), [type(type_of(name)) for name in names]) == before
        assert FoldBatchNorm(rules="none")(module).same_as(module)
        executable = bnfx.tvm.build(module, "llvm")
        normal = relax.transform.Normalize()(module)  # which notes types in the module itself
        assert _agrees(executable, normal)


def _with_parameters(dtype: str) -> tvm.IRModule:
    def build(make: Make) -> Expr:
        weight = make.input(8, 4, 3, 3, name="a.conv.weight")
        y = make.call("nn.conv2d", make.inputs[0], weight)
        names = ("weight", "bias", "running_mean", "running_var")
        statistics = [make.input(8, name=f"a.bn.{name}") for name in names]
        norm = make.call("nn.batch_norm", y, *statistics, axis=1, training=False)
        return make.emit(norm[0])

    make = Make(0, dtype)
    make.input(2, 4, 6, 7)
    return make.module(build)


def _parameters(dtype: str) -> dict[str, Any]:
    import torch

    names = ("weight", "bias", "running_mean", "running_var")
    found = {f"a.bn.{name}": torch.rand(8) + 0.5 for name in names}
    found["a.conv.weight"] = torch.rand(8, 4, 3, 3) - 0.5
    return {name: tensor.to(getattr(torch, dtype)) for name, tensor in found.items()}


def test_reports_name_the_module_whose_parameters_were_bound() -> None:
    module, reports = _with_parameters("float32"), list[bnfx.Report]()
    bnfx.tvm.build(module, "llvm", _parameters("float32"), report=reports.append)
    assert [(v.site.name, v.outcome.value) for v in reports[0].verdicts] == [("a.bn", "folded")]
    fold = FoldBatchNorm()
    fold(module)  # while they are parameters, too
    assert [(v.site.name, v.outcome.value) for v in fold.report.verdicts] == [("a.bn", "kept")]


def test_parameters_in_bfloat16_are_bound_and_kept_for_their_dtype() -> None:
    module, reports = _with_parameters("bfloat16"), list[bnfx.Report]()
    bnfx.tvm.build(module, "llvm", _parameters("bfloat16"), report=reports.append)
    (verdict,) = reports[0].verdicts
    assert verdict.outcome.value == "kept"
    assert {refusal.code for refusal in verdict.refusals} == {bnfx.Code.UNSUPPORTED_DTYPE}
    assert "bfloat16, in which NumPy computes nothing" in str(verdict.refusals[0])


def test_parameters_that_do_not_fit_are_named() -> None:
    module, given = _with_parameters("float32"), _parameters("float32")
    weight = given["a.conv.weight"]
    with pytest.raises(BuildError, match=r"'a.conv.wieght', but main takes x, .* did you mean"):
        bnfx.tvm.build(module, "llvm", {"a.conv.wieght": weight})
    with pytest.raises(BuildError, match=r"\['a.conv.weight'\] is float32 of shape \(8, 4, 3, 1\)"):
        bnfx.tvm.build(module, "llvm", {"a.conv.weight": weight[..., :1]})
    with pytest.raises(BuildError, match=r"\['a.conv.weight'\] is float64 of shape"):
        bnfx.tvm.build(module, "llvm", {"a.conv.weight": weight.double()})


@pytest.mark.parametrize("kind", ["list", "nothing", "words", "meta", "sparse"])
def test_parameters_that_are_no_tensors_are_named(kind: str) -> None:
    import torch

    weight = _parameters("float32")["a.conv.weight"]
    given = {
        "list": weight.tolist(),
        "nothing": None,
        "words": np.asarray(["one", "two"]),
        "meta": weight.to("meta"),
        "sparse": weight.to_sparse(),
    }[kind]
    assert torch.is_tensor(given) == (kind in ("meta", "sparse"))
    expected = rf"\['a.conv.weight'\] must be a dense tensor .* this {type(given).__name__} cannot"
    with pytest.raises(BuildError, match=expected):
        bnfx.tvm.build(_with_parameters("float32"), "llvm", {"a.conv.weight": given})
    with pytest.raises(BuildError, match="params is a list; it must be a mapping, name -> tensor"):
        bnfx.tvm.build(_with_parameters("float32"), "llvm", [weight])
