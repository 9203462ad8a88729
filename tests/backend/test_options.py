"""Options are checked before anything is compiled, and errors name the way out."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_apart
from support import Capture, randomise, relative
from torch import nn

import bnfx
from bnfx.options import Options


def pair() -> nn.Module:
    torch.manual_seed(0)
    return randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()


X = torch.randn(2, 3, 6, 7)


def compile_and_call(**options: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.compile(pair(), backend="bnfx", options=options)(X)


def test_found_without_importing_bnfx(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "assert 'bnfx' in torch._dynamo.list_backends()\n"
        "assert 'bnfx' not in sys.modules\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5)).eval()\n"
        "compiled = torch.compile(model, backend='bnfx', options={'inner': 'eager'})\n"
        "with torch.no_grad():\n"
        "    compiled(torch.ones(1, 3, 4, 4))\n"
        "assert 'bnfx.backend' in sys.modules\n"
    )
    assert (done := run_apart(["-c", code], tmp_path)).returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iner": "eager"}, ["unknown option 'iner'", "did you mean 'inner'"]),
        ({"inner": "inductr"}, ["unknown inner backend 'inductr'", "did you mean 'inductor'"]),
        ({"inner": 3}, ["inner must be", "3"]),
        ({"inner": "bnfx"}, ["itself"]),
        ({"inner_options": 3}, ["inner_options must be a dict"]),
        ({"inner_options": {"max_autotun": True}}, ["max_autotun", "did you mean 'max_autotune'"]),
        ({"weights": "lve"}, ["weights='lve'", "did you mean 'live'"]),
        ({"rules": "al"}, ["rules must be", "'al'", "did you mean 'all'"]),
        ({"rules": 3}, ["rules must be", "3"]),
        ({"rules": ["merge-affine"]}, ["merge-affine", "did you mean 'merge-affines'"]),
        ({"verify": "yes"}, ["verify must be"]),
        ({"verify": -1.0}, ["verify must be"]),
        ({"report": 3}, ["report must be a callable or a path"]),
        ({"report": "report.pdf"}, [".json or .txt"]),
        ({"report": "no/such/folder/report.json"}, ["folder", "does not exist"]),
        ({"sync": "on"}, ["sync='on'"]),
        ({"process_group": 3}, ["process_group must be", "3"]),
        ({"check": "mark"}, ["check='mark'", "did you mean 'marks'"]),
        ({"cudnn_fusion": "on"}, ["cudnn_fusion='on'"]),
        (
            {"cudnn_fusion": "trial", "inner": "eager"},
            ["cudnn_fusion", "for inner='inductor' only"],
        ),
        ({"weight_layout": "channels"}, ["did you mean 'channels_last'"]),
    ],
)
def test_bad_option(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(bnfx.OptionError) as error:
        compile_and_call(**options)
    assert all(word in str(error.value) for word in words)
    assert type(error.value).__name__ == "OptionError"


def test_a_page_needs_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    there = {"plotly": None, "jinja2": object(), "fast_sugiyama": object()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: there[n] if n in there else find(n))
    words = r"needs plotly, which is not installed: pip install 'bnfx.report"
    with pytest.raises(bnfx.OptionError, match=words):
        compile_and_call(report="report.html")


def test_bad_mode() -> None:
    model = torch.compile(pair(), backend="bnfx", mode="max-autotun")
    with pytest.raises(bnfx.OptionError, match="did you mean 'max-autotune'"):
        model(X)


@pytest.mark.slow
def test_mode_reaches_inductor() -> None:
    model = pair()
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", mode="max-autotune-no-cudagraphs")
        assert relative(compiled(X), model(X)) < 1e-5


@pytest.mark.slow
def test_inner_options_reach_inductor_and_others() -> None:
    seen: list[Any] = []

    def inner(module: torch.fx.GraphModule, example_inputs: Any, *, options: Any) -> Any:
        seen.append(options)
        return module.forward

    compile_and_call(inner=inner, inner_options={"level": 3})
    assert seen == [{"level": 3}]
    compile_and_call(inner_options={"epilogue_fusion": False, "freezing": False})


@pytest.mark.parametrize("inner", ["eager", "aot_eager", "inductor"])
def test_inner_by_name(inner: str) -> None:
    assert relative(compile_and_call(inner=inner), pair()(X)) < 1e-5


def test_rules() -> None:
    capture = Capture()
    compile_and_call(**capture.options, rules=["lower-batch-norm"])
    assert capture.reports[0].count("lowered") == 1
    torch._dynamo.reset()
    capture = Capture()
    compile_and_call(**capture.options, rules="none")
    assert capture.reports[0].count("kept") == capture.batch_norms() == 1


def test_defaults_are_what_the_design_says() -> None:
    assert Options.parse(None) == Options(
        inner="inductor",
        inner_options={},
        weights="auto",
        sync="auto",
        process_group=None,
        rules="all",
        verify=False,
        report=None,
        check="content",
        cudnn_fusion="off",
        weight_layout="given",
    )


def test_report_file_holds_every_graph(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = pair(), nn.BatchNorm2d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x)

    path = tmp_path / "report.json"
    model = randomise(Broken()).eval()
    with torch.no_grad():
        options = {"inner": "eager", "report": path}
        assert relative(torch.compile(model, backend="bnfx", options=options)(X), model(X)) < 1e-6
    data = json.loads(path.read_text())
    assert [len(graph["verdicts"]) for graph in data["graphs"]] == [1, 1]
    assert data["summary"] == {
        "folded": 1,
        "merged": 0,
        "lowered": 1,
        "synchronised": 0,
        "kept": 0,
    }
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_report_as_text_and_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="bnfx"):
        compile_and_call(inner="eager", report=tmp_path / "report.txt")
    text = (tmp_path / "report.txt").read_text()
    assert "1 BatchNorm: 1 folded" in text
    assert "1 BatchNorm: 1 folded" in caplog.text


@pytest.mark.slow
def test_torch_logs_shows_the_report() -> None:
    code = (
        "import torch\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5)).eval()\n"
        "compiled = torch.compile(model, backend='bnfx', options={'inner': 'eager'})\n"
        "with torch.no_grad():\n"
        "    compiled(torch.ones(1, 3, 4, 4))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TORCH_LOGS": "+bnfx"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 BatchNorm: 1 folded" in run.stderr


def test_verify_accepts_a_right_fold_and_leaves_inputs_alone() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *pair()).eval()
    x = X.clone()
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options={"inner": "eager", "verify": True})
        out = compiled(x)
        assert torch.equal(x, X.relu()), "the graph writes to its input once, as in eager"
        assert relative(out, model(X.clone())) < 1e-6


def test_verify_falls_back() -> None:
    capture = Capture()
    options = {**capture.options, "verify": 1e-12}  # less than float32 can give
    model = pair()
    with torch.no_grad(), pytest.warns(bnfx.RewriteWarning, match="verification failed"):
        out = torch.compile(model, backend="bnfx", options=options)(X)
    assert torch.equal(out, model(X))
    assert capture.batch_norms() == 1
    assert capture.reports[0].verdicts[0].refusals[0].code is bnfx.Code.INTERNAL_ERROR


def test_wrong_options_of_one_model_are_no_error_of_another() -> None:
    """A BatchNorm in training asks which compiled model it is a part of."""
    x = torch.randn(2, 3, 4, 4)
    wrong = torch.compile(nn.BatchNorm2d(3), backend="bnfx", options={"inner": 3})
    with pytest.raises(bnfx.OptionError, match="not 3"):
        wrong(x)
    torch.compile(nn.ReLU(), backend="bnfx", options={"inner": "eager"})(x)
    model = nn.BatchNorm2d(3)
    model(x)
    assert int(model.num_batches_tracked) == 1
    with pytest.raises(bnfx.OptionError, match="not 3"):
        wrong(x)
