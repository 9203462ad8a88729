"""``inner="auto"``: the fastest engine that is right, found once for a graph and machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rebuilds import join_builds
from support import randomise
from torch import nn

import bnfx
from bnfx.errors import InnerWarning
from bnfx.inner.auto import choices, trial
from bnfx.inner.base import ENGINES
from bnfx.inner.onnxruntime.onnx_ops import OnnxOps

for each in ENGINES:
    pytest.importorskip(each)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    torch._dynamo.reset()
    # Not by the environment: the C++ check would be built there, once for each test.
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(trial, "is_busy", lambda: False)  # whatever else runs here
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", InnerWarning)
        warnings.simplefilter("error", bnfx.RewriteWarning)
        yield tmp_path / "engines"


def _model(last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    return randomise(nn.Sequential(*layers, *([] if last is None else [last]))).eval()


def _x() -> torch.Tensor:
    return torch.randn(2, 3, 9, 9)


def _agree(run: Any, model: nn.Module, x: torch.Tensor) -> None:
    ours, theirs = run(x), model(x)
    assert ours.stride() == theirs.stride()
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def _compiled(model: nn.Module, reports: list[Any], **options: Any) -> Any:
    given = {"inner": "auto", "report": reports.append, **options}
    return torch.compile(model, backend="bnfx", options=given)


def _first(name: str) -> Any:
    """The times of a trial, of which this one's is the best."""
    found = trial._times

    def times(ways: Any, examples: Any) -> dict[str, float]:
        measured = found(ways, examples)
        assert set(measured) == set(ways)
        return {name: 0.0, **{other: 1.0 for other in measured if other != name}}

    return mock.patch.object(trial, "_times", side_effect=times)


@pytest.mark.parametrize("name", ENGINES)
def test_the_fastest_serves_and_the_report_says_so(name: str, cache: Path) -> None:
    model, x, reports = _model(), _x(), list[Any]()
    run = _compiled(model, reports)
    with _first(name):
        for _ in range(3):
            _agree(run, model, x)
    (note,) = reports[-1].graphs[0].notes
    assert note.startswith(f"engine by trial: {name} 0.00 ms, ")
    assert all(f"{other} 1.00 ms" in note for other in (*ENGINES, "PyTorch") if other != name)
    assert len(list(cache.iterdir())) == 1

    torch._dynamo.reset()  # as in another process
    run = _compiled(model, reports)
    with mock.patch.object(trial, "_times", side_effect=AssertionError("tried again")):
        for _ in range(3):
            _agree(run, model, x)
    assert reports[-1].graphs[0].notes[0].startswith(f"engine by an earlier trial: {name} 0.00")


def test_a_choice_on_a_busy_machine_is_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "is_busy", lambda: True)
    reports = list[Any]()
    with _first("openvino"):
        _agree(_compiled(_model(), reports), _model(), _x())
    (note,) = reports[-1].graphs[0].notes
    assert "openvino 0.00 ms" in note
    assert "not kept" in note
    assert not cache.exists()


def test_real_times_are_of_all_of_them() -> None:
    model, reports = _model(), list[Any]()
    _agree(_compiled(model, reports), model, _x())
    (note,) = reports[-1].graphs[0].notes
    numbers = [float(part.split()[-2]) for part in note.removeprefix("engine by trial:").split(",")]
    assert len(numbers) == len(ENGINES) + 1
    assert numbers == sorted(numbers)
    assert numbers[0] > 0


@pytest.mark.slow
def test_other_sizes_options_and_graphs_have_trials_of_their_own(cache: Path) -> None:
    model, other = _model(), _model(nn.Sigmoid())
    threads = {"inner_options": {"onnxruntime": {"intra_op_num_threads": 1}}}
    with _first("openvino") as times:
        for model_, x, options in (
            (model, _x(), {}),
            (model, torch.randn(1, 3, 9, 9), {}),
            (model, _x(), threads),
            (other, _x(), {}),
            (model, _x(), {}),
        ):
            torch._dynamo.reset()
            _agree(_compiled(model_, [], **options), model_, x)
    assert times.call_count == 4
    assert len(list(cache.iterdir())) == 4


def test_an_engine_that_is_wrong_is_left_out() -> None:
    model, x, reports = _model(), _x(), list[Any]()
    run = _compiled(model, reports)
    with _first("openvino"), mock.patch.object(OnnxOps, "relu", OnnxOps.abs):
        for _ in range(3):
            _agree(run, model, x)
    (note,) = reports[-1].graphs[0].notes
    assert "ONNX Runtime answers otherwise than PyTorch" in note
    assert "onnxruntime" not in note


@pytest.mark.slow
def test_what_no_engine_takes_goes_to_inductor_without_a_warning() -> None:
    model, x, reports = _model(nn.GLU(1)), _x(), list[Any]()
    run = _compiled(model, reports)
    _agree(run, model, x)
    assert reports[-1].count("folded") == 1
    assert reports[-1].graphs[0].weights == "live"
    assert "aten.glu" in reports[-1].graphs[0].notes[0]


def test_where_pytorch_is_faster_inductor_has_the_graph() -> None:
    model, x, reports = _model(), _x(), list[Any]()
    run = _compiled(model, reports)
    with _first(trial.PYTORCH):
        _agree(run, model, x)
    assert reports[-1].graphs[0].weights == "live"
    assert "engine by trial: PyTorch 0.00 ms" in reports[-1].graphs[0].notes[0]


def test_a_change_of_weights_is_no_new_trial() -> None:
    model, x, reports = _model(), _x(), list[Any]()
    run = _compiled(model, reports)
    with _first("openvino") as times:
        for write in (lambda: None, model[0].weight.neg_, model[1].running_mean.add(1).neg_):
            write()
            for _ in range(8):
                _agree(run, model, x)
                join_builds()
    assert times.call_count == 1
    asked = mock.patch("bnfx.inner.openvino.session.Requests.__call__", side_effect=_AskedError)
    with asked, pytest.raises(_AskedError):
        run(x)


class _AskedError(BaseException):
    pass


@pytest.mark.parametrize("content", ["", "[]", '{"milliseconds": {"other": 1.0}}', "\0"])
def test_a_broken_file_is_no_choice(content: str, cache: Path) -> None:
    model, x, reports = _model(), _x(), list[Any]()
    with _first("openvino"):
        _agree(_compiled(model, reports), model, x)
    (file,) = cache.iterdir()
    file.write_text(content)
    torch._dynamo.reset()
    with _first("openvino"):
        _agree(_compiled(model, reports), model, x)
    assert reports[-1].graphs[0].notes[0].startswith("engine by trial")


def test_a_cache_that_cannot_be_written_is_no_failure(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    model, x, reports = _model(), _x(), list[Any]()
    run = _compiled(model, reports)
    for _ in range(3):
        _agree(run, model, x)


def test_dynamic_sizes() -> None:
    model, reports = _model(), list[Any]()
    options = {"inner": "auto", "report": reports.append}
    run = torch.compile(model, backend="bnfx", dynamic=True, options=options)
    with _first("onnxruntime") as times:
        for size in (9, 12, 9):
            for _ in range(2):
                _agree(run, model, torch.randn(2, 3, size, size))
    assert times.call_count == len(reports) == 1


def test_without_an_engine_it_is_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "installed", lambda: ())
    model, x, reports = _model(), _x(), list[Any]()
    _agree(_compiled(model, reports), model, x)
    assert "no engine is installed" in reports[-1].graphs[0].notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"openvin": {}}, "no engine 'openvin'; did you mean 'openvino'"),
        ({"openvino": 2}, "options of openvino must be a dict, not 2"),
        ({"openvino": {"PERFORMANCE_HIN": 1}}, "did you mean 'PERFORMANCE_HINT'"),
    ],
)
def test_options_that_are_not_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bnfx.OptionError, match=message):
        _compiled(_model(), [], inner_options=options)(_x())
