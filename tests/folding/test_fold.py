"""bnfx.fold: a copy, the same paths, clear errors."""

from __future__ import annotations

import copy
import io
import threading
from pathlib import Path

import pytest
import torch
from processes import run_apart
from support import count_batch_norms, count_ops, randomise, relative
from torch import fx, nn

import bnfx


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)
        self.late = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.norm(self.conv(self.stem(x))).relu())


def net() -> nn.Module:
    return randomise(Net()).eval()


X = torch.randn(2, 3, 9, 9)


def test_the_argument_is_unchanged_and_shares_nothing() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    folded = bnfx.fold(model, X)
    with torch.no_grad():
        for tensor in (*folded.parameters(), *folded.buffers()):
            tensor.zero_()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("inputs", [(), (X,)])
def test_module(inputs: tuple[torch.Tensor, ...]) -> None:
    model = net()
    folded = bnfx.fold(model, *inputs, keep="graph")
    with torch.no_grad():
        assert relative(folded(X), model(X)) < 1e-5
        assert relative(folded(X[:1, :, :7]), model(X[:1, :, :7])) < 1e-5
    assert count_batch_norms(folded) == 0
    assert type(folded).__name__ == "Net"
    assert not folded.training
    names = set(folded.state_dict())
    assert {"stem.0.weight", "stem.0.bias", "conv.weight", "conv.bias"} <= names
    assert not any("running" in name for name in names)
    assert folded.get_parameter("stem.0.bias").requires_grad
    assert inputs or type(folded.get_submodule("conv")) is nn.Conv2d


def test_graph_module_in_graph_module_out() -> None:
    traced = fx.symbolic_trace(net())
    code, ops = traced.code, count_ops(traced)
    folded = bnfx.fold(traced, X)
    assert traced.code == code
    # Two BatchNorms vanish, one becomes a multiply and an add.
    assert count_ops(folded) == ops - 2 + 1
    with torch.no_grad():
        assert relative(folded(X), traced(X)) < 1e-5


def test_folding_twice_changes_nothing() -> None:
    once = bnfx.fold(net(), X, keep="graph")
    twice = bnfx.fold(once, X)
    assert twice.code == once.code
    for ours, theirs in zip(twice.parameters(), once.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_result_can_be_saved_copied_and_exported(tmp_path: object) -> None:
    folded = bnfx.fold(net(), X)
    clone = copy.deepcopy(folded)
    clone.load_state_dict(folded.state_dict())
    buffer = io.BytesIO()
    torch.save(folded, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    exported = torch.export.export(folded, (X,)).module()
    with torch.no_grad():
        for other in (clone, loaded, exported):
            assert relative(other(X), folded(X)) < 1e-6


def test_exported_module_folds() -> None:
    model = net()
    exported = torch.export.export(model, (X,)).module()
    folded = bnfx.fold(exported)
    with torch.no_grad():
        assert relative(folded(X), model(X)) < 1e-5
    assert count_batch_norms(folded) == 0


def test_training_mode_is_refused() -> None:
    with pytest.raises(bnfx.TrainingModeError, match=r"call model\.eval\(\) first"):
        bnfx.fold(net().train())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keep": "modul"}, bnfx.OptionError, "did you mean 'module'"),
        ({"keep": "grph"}, bnfx.OptionError, "did you mean 'graph'"),
        ({"rules": "some"}, bnfx.OptionError, "rules must be"),
        ({"verify": -1}, bnfx.OptionError, "verify must be"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        bnfx.fold(net(), X, **options)


def test_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"takes an nn\.Module, not dict"):
        bnfx.fold({})
    with pytest.raises(TypeError, match=r"takes an nn\.Module, not function"):
        bnfx.explain(lambda x: x)


def test_data_dependent_control_flow() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(bnfx.CaptureError, match=r"cannot trace Branch.*Pass example inputs"):
        bnfx.fold(Branch().eval(), keep="graph")
    with pytest.raises(bnfx.CaptureError, match=r"cannot capture Branch.*keep=\"module\""):
        bnfx.fold(Branch().eval(), X, keep="graph")


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(bnfx.CaptureError, match="example inputs do not fit"):
        bnfx.fold(net(), torch.randn(2, 4, 9, 9))


def test_verify() -> None:
    bnfx.fold(net(), X, verify=True)
    bnfx.fold(net().double(), X.double(), verify=1e-12)
    with pytest.raises(bnfx.VerificationError, match="differs by"):
        bnfx.fold(net(), X, verify=1e-12)
    with pytest.raises(bnfx.OptionError, match="example inputs"):
        bnfx.fold(net(), verify=True)


def test_what_a_graph_cannot_say_is_refused() -> None:
    hooked = net()
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    patched = net()
    patched.forward = lambda x: x
    graph = fx.symbolic_trace(net())
    graph.register_forward_pre_hook(lambda module, args: None)
    for model, words in ((hooked, "hooks"), (graph, "hooks"), (patched, "own forward")):
        with pytest.raises(bnfx.CaptureError, match=words):
            bnfx.fold(model, keep="graph")
    with pytest.raises(bnfx.CaptureError, match="own forward"):
        bnfx.fold(patched, X)


@pytest.mark.slow
def test_autocast_inside_is_captured_on_inputs_alone() -> None:
    class Half(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    with pytest.raises(bnfx.CaptureError, match=r"enters torch\.autocast"):
        bnfx.fold(Half().eval(), keep="graph")
    model = randomise(Half()).eval()
    folded = bnfx.fold(model, X, keep="graph")
    with torch.no_grad():  # rounded in bfloat16 as often, but elsewhere
        assert relative(folded(X), model(X)) < 2 * torch.finfo(torch.bfloat16).eps


def test_in_place_operators_are_writes() -> None:
    class Doubling(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 0
            alias = x
            x *= 2
            return super().forward(alias)

    model = randomise(Doubling()).eval()
    with torch.no_grad():
        assert relative(bnfx.fold(model, X)(X), model(X)) < 1e-5


def test_shapes_are_found_without_running_the_model() -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return super().forward(x) + self.calls

    model = randomise(Counting()).eval()
    folded = bnfx.fold(model, X)
    assert folded.calls == model.calls == 0
    bnfx.explain(model, X)
    bnfx.fold(model, X, verify=True)
    assert model.calls == 0


def test_a_parameter_read_as_data_keeps_its_value() -> None:
    class Reading(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.conv.bias.mean() + self.conv.weight.sum()

    model = randomise(Reading()).eval()
    with torch.no_grad():
        assert relative(bnfx.fold(model, X, keep="graph")(X), model(X)) < 1e-5


def test_a_folded_graph_is_unpickled_without_bnfx(tmp_path: Path) -> None:
    folded, file = bnfx.fold(net(), X, keep="graph"), tmp_path / "folded.pt"
    torch.save(folded, file)
    script = (
        "import sys; sys.modules['bnfx'] = None; import torch; "
        f"print(torch.load({str(file)!r}, weights_only=False)(torch.ones(1, 3, 9, 9)).shape)"
    )
    run = run_apart(["-c", script], tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("torch.Size")


def test_other_ranks_are_an_error_where_ranks_mattered() -> None:
    model = randomise(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))).eval()
    folded = bnfx.fold(model, torch.randn(4, 6), keep="graph")
    with torch.no_grad():
        x = torch.randn(4, 6)
        assert relative(folded(x), model(x)) < 1e-5
    with pytest.raises(AssertionError, match="folded for input of 2 dimensions"):
        folded(torch.randn(4, 6, 6))


def test_lowering_keeps_batch_norms_layout() -> None:
    class Transposing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(x.transpose(2, 3))

    model, x = randomise(Transposing()).eval(), torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
        for run in (bnfx.fold(model, x), compiled):
            assert relative(run(x), model(x)) < 1e-6
            assert run(x).stride() == model(x).stride()


def test_no_numbers_no_fold() -> None:
    with pytest.raises(bnfx.CaptureError, match="meta device"):
        bnfx.fold(net().to("meta"))
    model = net()
    model.lock = threading.Lock()
    with pytest.raises(bnfx.CaptureError, match="cannot be copied"):
        bnfx.fold(model)


@pytest.mark.slow
def test_verification_knows_the_dtype() -> None:
    bnfx.fold(net().bfloat16(), X.bfloat16(), verify=True)
    bnfx.fold(net().half(), X.half(), verify=True)
    with pytest.raises(bnfx.VerificationError):
        bnfx.fold(net().bfloat16(), X.bfloat16(), verify=1e-5)


def test_missing_ranks_are_a_warning_with_the_way_out() -> None:
    model = randomise(nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5))).eval()
    with pytest.warns(bnfx.FoldWarning, match="1 BatchNorm kept.*pass example inputs"):
        bnfx.fold(model)


def test_refresh_takes_compiled_models_only() -> None:
    model = net()
    bnfx.refresh()
    bnfx.refresh(torch.compile(model, backend="bnfx"))
    bnfx.refresh(torch.compile(lambda x: x, backend="bnfx"))
    for wrong in (model, 3):
        with pytest.raises(TypeError, match=r"what torch\.compile returned"):
            bnfx.refresh(wrong)
