"""TVM as the inner compiler of torch.compile: right, never stale, and it names what it lacks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from relax.models import randomised
from torch import nn

from bnfx.errors import InnerWarning, OptionError


def _model() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
        )
    )


def _compiled(model: nn.Module, reports: Any = None, **options: Any) -> Any:
    chosen = {"inner": "tvm", "inner_options": {"target": "llvm", **options}}
    return torch.compile(model, backend="bnfx", options={**chosen, "report": reports})


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.stride() == theirs.stride()
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert float(error) < 1e-5


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Any:
    """No fallback goes unnoticed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InnerWarning)
        yield


@torch.no_grad()
def test_it_runs_and_folds() -> None:
    model, reports = _model(), []
    run = _compiled(model, reports.append)
    x = torch.randn(2, 3, 12, 12)
    _close(run(x), model(x))
    assert reports[-1].count("folded") == 1


@torch.no_grad()
def test_weights_are_constants_and_never_stale() -> None:
    """Each way to write to a parameter shows in the next answer."""
    model = _model()
    run = _compiled(model)
    x = torch.randn(2, 3, 12, 12)
    _close(run(x), model(x))
    writes = [
        lambda: model[1].weight.mul_(-2.0),
        lambda: model[0].weight.add_(0.1),
        lambda: model[3].bias.fill_(3.0),
        lambda: model[1].running_mean.add_(1.0),
        lambda: model.load_state_dict(_model_of_other_seed().state_dict()),
        lambda: setattr(model[3].weight, "data", torch.randn(4, 8, 3, 3)),
    ]
    for write in writes:
        before = run(x)
        write()
        after = run(x)
        assert not torch.allclose(before, after)
        _close(after, model(x))


def _model_of_other_seed() -> nn.Module:
    return randomised(_model(), seed=7)


@torch.no_grad()
def test_two_models_of_one_class_do_not_share_weights() -> None:
    one, other = _model(), _model_of_other_seed()
    x = torch.randn(2, 3, 12, 12)
    for model in (one, other, one):
        _close(_compiled(model)(x), model(x))


@torch.no_grad()
def test_other_sizes_are_built_anew() -> None:
    model = _model()
    run = _compiled(model)
    for shape in ((2, 3, 12, 12), (5, 3, 12, 12), (3, 3, 10, 9), (2, 3, 12, 12)):
        x = torch.randn(*shape)
        _close(run(x), model(x))


@torch.no_grad()
def test_outputs_are_laid_out_as_in_torch() -> None:
    model = _model().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last)
    _close(_compiled(model)(x), model(x))


class _Spectrum(nn.Module):
    """A Fourier transform between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        z = torch.fft.fft(y).real
        out: torch.Tensor = self.linear((y + z).mean((2, 3)))
        return out


@torch.no_grad()
def test_unknown_ops_run_in_torch_and_are_named() -> None:
    model = randomised(_Spectrum())
    run = _compiled(model)
    x = torch.randn(2, 3, 12, 12)
    with pytest.warns(InnerWarning, match="_fft_r2c"):
        ours = run(x)
    _close(ours, model(x))
    model.norm.weight.mul_(-1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        _close(run(x), model(x))


@torch.no_grad()
def test_a_graph_that_writes_to_its_input_runs_in_torch() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(self.conv(x))
            x.add_(1.0)
            return y

    model = randomised(Writes())
    ours, theirs = torch.ones(1, 3, 5, 5), torch.ones(1, 3, 5, 5)
    with pytest.warns(InnerWarning, match="it writes to"):
        result = _compiled(model)(ours)
    _close(result, model(theirs))
    torch.testing.assert_close(ours, theirs)


def test_gradients_are_left_to_torch() -> None:
    """TVM's answer has none, so a graph that needs them runs in PyTorch, and a warning says so."""
    model = _model()
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    with pytest.warns(InnerWarning, match="gradients are needed"):
        _compiled(model)(x).sum().backward()
    ours = x.grad
    x.grad = None
    model(x).sum().backward()
    assert ours is not None
    torch.testing.assert_close(ours, x.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targett": "llvm"}, "did you mean 'target'"),
        ({"target": "a toaster"}, "no target"),
        ({"trials": -1}, "number of trials"),
        ({"trials": 4}, "needs a database"),
        ({"target": "llvm", "arch": "sm_90"}, 'is for the target "cuda"'),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    run = torch.compile(
        _model(), backend="bnfx", options={"inner": "tvm", "inner_options": options}
    )
    with pytest.raises(OptionError, match=message), torch.no_grad():
        run(torch.randn(2, 3, 12, 12))


@pytest.mark.heavy
@torch.no_grad()
def test_tuning_fills_a_database_that_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    x = torch.randn(1, 3, 8, 8)
    options = {"trials": 4, "database": tmp_path / "records"}
    _close(_compiled(model, **options)(x), model(x))
    records = (tmp_path / "records" / "database_tuning_record.json").read_text()
    assert records

    from bnfx.tvm import tune

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("what the database has is not tuned again")

    monkeypatch.setattr(tune.meta_schedule.tune, "tune_tasks", refuse)
    torch._dynamo.reset()
    _close(_compiled(model, **options)(x), model(x))
