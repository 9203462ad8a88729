"""The pass among TVM's passes, the builds, the hook into TVM's own build, and their errors."""

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
from graphs import TARGET, Make, count, inputs_of, module_of, optimised, relative, run, run_vm
from tvm import relay

import bnfx
import bnfx.tvm
from bnfx.errors import BuildError
from bnfx.tvm.relay import FoldBatchNorm, build_hook


def block(make: Make) -> Any:
    return block_of(make, make.input(2, 4, 8, 8))


def block_of(make: Make, x: Any) -> Any:
    return relay.nn.relu(make.batch_norm(make.conv(x, 8, 4, 3, 3, bias=True), 8))


@pytest.fixture
def module() -> tvm.IRModule:
    return module_of(block(Make(0)))


@pytest.fixture
def unbound() -> tuple[tvm.IRModule, dict[str, Any]]:
    """A module as frontends give it: weights are parameters, their values beside it."""
    make = Make(0)
    shapes = {"weight": (8, 4, 3, 3), "gamma": (8,), "beta": (8,), "mean": (8,), "var": (8,)}
    params = {name: make.random.uniform(0.5, 1.5, shape) for name, shape in shapes.items()}
    weight, *norm = (relay.var(name, shape=s, dtype="float64") for name, s in shapes.items())
    y = relay.nn.conv2d(make.input(2, 4, 8, 8), weight, channels=8, kernel_size=(3, 3))
    body = relay.nn.relu(relay.nn.batch_norm(y, *norm)[0])
    return module_of(body), {name: tvm.nd.array(value) for name, value in params.items()}


def plain(module: tvm.IRModule, params: Any = None) -> list[Any]:
    inputs = {k: v for k, v in inputs_of(module).items() if params is None or k not in params}
    with tvm.transform.PassContext(opt_level=0):
        return run(relay.build(module, TARGET, params=params), inputs)


def test_it_is_a_pass(module: tvm.IRModule) -> None:
    fold = FoldBatchNorm()
    assert isinstance(fold, tvm.transform.Pass)
    assert fold.info.name == "bnfx.FoldBatchNorm"
    assert list(fold.info.required) == ["InferType"]
    sequence = tvm.transform.Sequential(
        [relay.transform.InferType(), fold, relay.transform.FoldConstant()]
    )
    assert count(sequence(module))["nn.batch_norm"] == 0
    assert fold.report is not None
    assert fold.report.count("folded") == 1


def test_functions_that_others_call_are_folded() -> None:
    """What ``main`` does with the result asks for its type."""
    make = Make(0)
    called, x = relay.GlobalVar("called"), make.input(2, 4, 8, 8)
    argument = relay.var("a", x.type_annotation)
    module = tvm.IRModule()
    result = relay.TensorType((2, 8, 6, 6), "float64")
    module[called] = relay.Function([argument], block_of(make, argument), result)
    module["main"] = relay.Function([x], relay.add(called(x), block_of(make, x)))
    module = relay.transform.InferType()(module)
    fold = FoldBatchNorm()
    folded = fold(module)
    assert fold.report is not None
    assert fold.report.count("folded") == 2
    ours, theirs = (
        run_vm(relay.vm.compile(one, target=TARGET), inputs_of(module)) for one in (folded, module)
    )
    assert relative(ours, theirs) < 1e-10


def test_instruments_see_it(module: tvm.IRModule) -> None:
    seen: list[str] = []

    @tvm.instrument.pass_instrument
    class Names:
        def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
            seen.append(info.name)

    with tvm.transform.PassContext(instruments=[Names()]):
        FoldBatchNorm()(module)
    assert "bnfx.FoldBatchNorm" in seen


def test_a_folded_module_survives_text_and_json(module: tvm.IRModule) -> None:
    folded = FoldBatchNorm()(module)
    assert tvm.ir.structural_equal(tvm.ir.load_json(tvm.ir.save_json(folded)), folded)
    parse = getattr(relay, "parse", None) or tvm.parser.parse
    again = parse(folded.astext())
    assert relative(plain(again), plain(module)) < 1e-10


def test_rules_are_chosen(module: tvm.IRModule) -> None:
    fold = FoldBatchNorm(rules="none")
    assert count(fold(module))["nn.batch_norm"] == 1
    assert fold.report is not None
    assert fold.report.count("kept") == 1
    with pytest.raises(bnfx.OptionError, match="did you mean 'fold-affine-into-linear'"):
        FoldBatchNorm(rules=["fold-affine-into-linea"])


def test_reports_go_where_they_are_wanted(module: tvm.IRModule, tmp_path: Path) -> None:
    reports: list[bnfx.Report] = []
    FoldBatchNorm(report=reports.append)(module)
    assert [report.count("folded") for report in reports] == [1]
    FoldBatchNorm(report=tmp_path / "report.json")(module)
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["folded"] == 1
    with pytest.raises(bnfx.OptionError, match="must end in"):
        FoldBatchNorm(report=tmp_path / "report.pdf")


def test_build_binds_parameters(unbound: tuple[tvm.IRModule, dict[str, Any]]) -> None:
    module, params = unbound
    fold = FoldBatchNorm()
    fold(module)
    assert fold.report is not None
    assert fold.report.count("kept") == 1, "parameters are not constants yet"
    reports: list[bnfx.Report] = []
    library = bnfx.tvm.build(module, TARGET, params, report=reports.append)
    assert reports[0].count("folded") == 1
    inputs = {"x": inputs_of(module)["x"]}
    assert relative(run(library, inputs), plain(module, params)) < 1e-10
    named = {name: value.numpy() for name, value in params.items()}
    assert relative(run(bnfx.tvm.build(module, TARGET, named), inputs), run(library, inputs)) == 0


def test_the_callers_pass_context_holds(module: tvm.IRModule) -> None:
    """Its options and its disabled passes reach TVM's own build."""
    with (
        tvm.transform.PassContext(opt_level=3, disabled_pass=["FoldBatchNorm"]),
        tvm.target.Target(TARGET),
    ):
        library = bnfx.tvm.build(module)
    assert relative(run(library, inputs_of(module)), plain(module)) < 1e-10


def test_the_ahead_of_time_executor(module: tvm.IRModule, tmp_path: Path) -> None:
    library = bnfx.tvm.build(module, TARGET, executor="aot")
    library.export_library(str(tmp_path / "net.so"))
    loaded = tvm.runtime.load_module(str(tmp_path / "net.so"))
    machine = tvm.runtime.executor.AotModule(loaded["default"](tvm.cpu()))
    for name, value in inputs_of(module).items():
        machine.set_input(name, value)
    machine.run()
    assert relative([machine.get_output(0).numpy()], plain(module)) < 1e-10


_ALONE = """
import sys
import numpy as np, tvm
from tvm.contrib import graph_executor
library, given, answer = sys.argv[1:]
machine = graph_executor.GraphModule(tvm.runtime.load_module(library)["default"](tvm.cpu()))
machine.run(**np.load(given))
np.save(answer, machine.get_output(0).numpy())
assert "bnfx" not in sys.modules
"""


def test_a_library_runs_in_a_process_without_bnfx(module: tvm.IRModule, tmp_path: Path) -> None:
    library, given, answer = (tmp_path / name for name in ("net.so", "in.npz", "out.npy"))
    bnfx.tvm.build(module, TARGET).export_library(str(library))
    np.savez(given, **inputs_of(module))
    words = [sys.executable, "-c", _ALONE, *map(str, (library, given, answer))]
    subprocess.run(words, check=True, timeout=300)
    assert relative([np.load(answer)], plain(module)) < 1e-10


def test_the_virtual_machine(module: tvm.IRModule) -> None:
    executable = bnfx.tvm.build(module, TARGET, executor="vm")
    assert isinstance(executable, tvm.runtime.vm.Executable)
    assert relative(run_vm(executable, inputs_of(module)), plain(module)) < 1e-10


def test_a_function_is_taken_as_tvm_takes_it(module: tvm.IRModule) -> None:
    library = bnfx.tvm.build(module["main"], TARGET)
    assert relative(run(library, inputs_of(module)), plain(module)) < 1e-10


def test_the_hook_folds_builds_of_others(
    unbound: tuple[tvm.IRModule, dict[str, Any]],
) -> None:
    module, params = unbound
    inputs = {"x": inputs_of(module)["x"]}
    with build_hook() as fold:
        with tvm.transform.PassContext(opt_level=3):
            library = relay.build(module, TARGET, params=params)
        assert fold.report is not None
        assert fold.report.count("folded") == 1
    assert relative(run(library, inputs), plain(module, params)) < 1e-10


def test_the_hook_folds_for_the_virtual_machine(
    unbound: tuple[tvm.IRModule, dict[str, Any]],
) -> None:
    module, params = unbound
    with build_hook() as fold:
        executable = relay.vm.compile(module, TARGET, params=params)
        assert fold.report is not None
        assert fold.report.count("folded") == 1
    answer = run_vm(executable, {"x": inputs_of(module)["x"]})
    assert relative(answer, plain(module, params)) < 1e-10


def test_the_hook_holds_for_its_block_and_thread(module: tvm.IRModule) -> None:
    elsewhere: list[Any] = []
    with build_hook() as fold:
        other = threading.Thread(target=lambda: elsewhere.append(relay.build(module, TARGET)))
        other.start()
        other.join()
        assert len(elsewhere) == 1
        assert fold.report is None, "another thread's build was folded"
        with pytest.raises(RuntimeError, match="on purpose"), build_hook():
            raise RuntimeError("on purpose")
        relay.build(module, TARGET)
        assert fold.report is not None
    fold.report = None
    relay.build(module, TARGET)
    assert fold.report is None, "a build behind the block was folded"


def test_executors_have_names(module: tvm.IRModule) -> None:
    named = bnfx.tvm.build(module, TARGET, executor="graph")
    given = bnfx.tvm.build(module, TARGET, executor=relay.backend.Executor("graph"))
    assert relative(run(named, inputs_of(module)), run(given, inputs_of(module))) == 0
    with pytest.raises(bnfx.BuildError, match="unknown executor 'vmm'; valid are graph, aot, vm"):
        bnfx.tvm.build(module, TARGET, executor="vmm")


@pytest.mark.parametrize("wrong", [None, "resnet18", 3])
def test_what_is_no_module_is_named(wrong: Any) -> None:
    expected = f"takes a module of TVM .*, not a {type(wrong).__name__}: make one"
    with pytest.raises(TypeError, match=expected):
        bnfx.tvm.build(wrong, TARGET)


def test_a_module_without_main_is_named(module: tvm.IRModule) -> None:
    with pytest.raises(TypeError, match="no function main"):
        bnfx.tvm.build(tvm.IRModule({relay.GlobalVar("other"): module["main"]}), TARGET)


def test_targets_that_cannot_be_built_are_named(module: tvm.IRModule) -> None:
    with pytest.raises(bnfx.BuildError, match=r"no code generator for the target 'cuda'"):
        bnfx.tvm.build(module, "cuda")
    with pytest.raises(bnfx.BuildError, match="is no target that this TVM knows"):
        bnfx.tvm.build(module, "abacus")
    with pytest.raises(bnfx.BuildError, match="no target: pass one"):
        bnfx.tvm.build(module)


def test_what_is_left_is_a_convolution_with_a_bias(module: tvm.IRModule) -> None:
    left = count(optimised(FoldBatchNorm()(module)))
    computing = {name: number for name, number in left.items() if "transform" not in name}
    assert computing == {"nn.contrib_conv2d_NCHWc": 1, "add": 1, "nn.relu": 1}


def test_weights_are_rounded_once() -> None:
    """float32 weights are folded in float64."""
    make = Make(3, "float32")
    module = module_of(make.batch_norm(make.conv(make.input(1, 4, 5, 5), 8, 4, 3, 3), 8))
    constants: list[Any] = []
    relay.analysis.post_order_visit(
        FoldBatchNorm()(module)["main"],
        lambda e: constants.append(e.data.numpy()) if isinstance(e, relay.Constant) else None,
    )
    original: list[Any] = []
    relay.analysis.post_order_visit(
        module["main"],
        lambda e: original.append(e.data.numpy()) if isinstance(e, relay.Constant) else None,
    )
    weight, gamma, beta, mean, var = (array.astype("float64") for array in original)
    scale = gamma / np.sqrt(var + 1e-5)
    assert np.array_equal(constants[0], (weight * scale[:, None, None, None]).astype("float32"))
    assert np.array_equal(constants[1], (beta - mean * scale).astype("float32"))


def test_a_pass_that_the_context_disables_does_not_run(module: tvm.IRModule) -> None:
    reports: list[bnfx.Report] = []
    with tvm.transform.PassContext(opt_level=0, disabled_pass=["bnfx.FoldBatchNorm"]):
        library = bnfx.tvm.build(module, TARGET, report=reports.append)
        with build_hook() as fold:
            hooked = relay.build(module, TARGET)
    assert reports == []
    assert fold.report is None
    inputs = inputs_of(module)
    assert relative(run(library, inputs), plain(module)) < 1e-10
    assert relative(run(hooked, inputs), plain(module)) < 1e-10


def test_reports_name_the_module_whose_parameters_are_read() -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    rest = [relay.var(f"layer1.0.bn1.{name}", shape=(8,), dtype="float64") for name in names]
    x = Make(0).input(2, 8, 4, 4)
    fold = FoldBatchNorm()
    fold(module_of(relay.nn.batch_norm(x, *rest)[0]))
    assert [verdict.site.name for verdict in fold.report.verdicts] == ["layer1.0.bn1"]


def test_parameters_that_do_not_fit_are_named(unbound: Any) -> None:
    module, params = unbound
    name, array = next(iter((name, value.numpy()) for name, value in params.items()))
    for value in (array[..., None], array[..., :-1], array.astype("float32"), array.astype(">f8")):
        assert (value.shape, str(value.dtype)) != (array.shape, str(array.dtype))
        with pytest.raises(
            BuildError, match=rf"'{name}'\] is {value.dtype} of shape .* main takes"
        ):
            bnfx.tvm.build(module, TARGET, {name: value})
    with pytest.raises(BuildError, match=rf"'{name}'\] is float32 of shape .* main takes"):
        bnfx.tvm.build(module, TARGET, {name: array.tolist()})  # TVM makes float32 of lists
    for wrong in (None, "weight", [["a"]], {}):
        expected = rf"'{name}'\] must be a tensor of TVM or NumPy, not a {type(wrong).__name__}"
        with pytest.raises(BuildError, match=expected):
            bnfx.tvm.build(module, TARGET, {name: wrong})
    with pytest.raises(BuildError, match="params is a list; it must be a mapping, name -> tensor"):
        bnfx.tvm.build(module, TARGET, [array])


def test_parameters_may_be_lists_and_numbers() -> None:
    x, weight = (relay.var(n, shape=(4,), dtype="float32") for n in ("x", "weight"))
    scale = relay.var("scale", shape=(), dtype="float32")
    module = module_of(relay.multiply(relay.add(x, weight), scale))
    library = bnfx.tvm.build(module, TARGET, {"weight": [1.0, 2.0, 3.0, 4.0], "scale": 2.0})
    (answer,) = run(library, {"x": np.ones(4, "float32")})
    assert answer.tolist() == [4.0, 6.0, 8.0, 10.0]
