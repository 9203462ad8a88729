"""``bnfx demo``: it shows what happened, and says so when an answer is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from typer.testing import CliRunner

import bnfx
from bnfx import cli, demo
from bnfx.demo.comparison import print_json, print_table, summary
from bnfx.demo.image import draw, image
from bnfx.demo.measure import STEPS, DemoRow, measure
from bnfx.demo.networks import Case, cases, randomise

RIGHT = DemoRow("tiny", 3, 1, 1, 1, 1e-7, 1e-15, 3.0, 2.0, 1.0)


class Tiny(nn.Module):
    """One BatchNorm to fold, one to leave as a multiply-add, one that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8)
        self.folds = nn.BatchNorm2d(8)
        self.lowers = nn.BatchNorm2d(8)
        self.stays = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lowers(torch.relu(self.folds(self.conv(x))))
        return self.stays(x.flatten(2).sin())


def tiny() -> Tiny:
    model = randomise(Tiny().eval())
    assert isinstance(model, Tiny)
    model.stays.track_running_stats = False  # normalises by the batch, even in evaluation
    model.stays.running_mean = model.stays.running_var = None
    return model


def off_by(factor: float) -> Callable[..., Any]:
    """An inner compiler whose answers are wrong by a factor."""

    def compile_(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(factor * output for output in graph.forward(*args))

    return compile_


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnfx.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (("--help",), "bnfx explain torchvision:resnet18 --input 1x3x224x224"),
        (("demo", "--help"), "bnfx demo --quick"),
    ],
)
def test_help_shows_an_example(arguments: tuple[str, ...], example: str) -> None:
    done = command(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith(" ".join(("Usage: bnfx", *arguments[:-1])))
    assert f"Example: {example}" in done.stdout


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"bnfx {bnfx.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom bnfx.cli import app\n"
        f"app({arguments}, standalone_mode=False)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("arguments", [["--slow"], ["--repeats", "0"], ["extra"]])
def test_a_mistake_in_the_call_is_status_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.app, ["demo", *arguments])
    assert done.exit_code == 2
    assert "demo --help' for help." in done.stderr


def test_missing_packages_are_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "timm") else find(name)
    )
    done = CliRunner().invoke(cli.app, ["demo"])
    assert done.exit_code == 2
    assert done.stderr == 'bnfx demo needs torch, timm: pip install "bnfx[demo]"\n'


def test_row_says_what_became_of_each_batch_norm() -> None:
    told: list[str] = []
    row = measure("tiny", tiny(), image(), repeats=2, inner="eager", tell=told.append)
    assert row.problems == ()
    assert (row.batch_norms, row.folded, row.multiply_add, row.kept) == (3, 1, 1, 1)
    assert 0 < row.error < 1e-5
    assert 0 < row.error_float64 < 1e-13
    assert min(row.eager_ms, row.inductor_ms, row.bnfx_ms) > 0
    assert row.over_inductor == row.inductor_ms / row.bnfx_ms
    assert row.over_eager == row.eager_ms / row.bnfx_ms
    assert tuple(told) == STEPS


def test_a_table_is_right_with_inductor(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run([Case("tiny", tiny)], repeats=1) == 0
    printed = capsys.readouterr()
    assert "all 1 answers right" in printed.out
    assert printed.err.splitlines() == [
        f"[{number}/{len(STEPS)}] tiny: {step}" for number, step in enumerate(STEPS, start=1)
    ]


@pytest.mark.parametrize(
    ("factor", "problem"),
    [
        (1.001, "the float32 error 1.0e-03 is above 1e-04"),
        (float("nan"), "the answer is not finite"),
    ],
)
def test_a_wrong_answer_is_status_1(
    factor: float, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.run([Case("tiny", tiny)], repeats=1, inner=off_by(factor)) == 1
    printed = capsys.readouterr()
    assert f"bnfx demo: tiny: {problem}" in printed.err.splitlines()
    assert "WRONG" in printed.out


def test_an_answer_that_ignores_the_picture_proves_nothing() -> None:
    model = tiny()
    model.conv.weight.detach().mul_(1e-9)
    row = measure("blind", model, image(), repeats=1, inner="eager")
    assert any("hardly depends on the picture" in problem for problem in row.problems)


def test_no_cxx_compiler_is_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or the cache would serve it
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "none"),)}):
        status = demo.run([Case("tiny", tiny)], repeats=1)
    assert status == 2
    message = "bnfx demo: Inductor needs a C++ compiler: install g++, or set CXX\n"
    assert capsys.readouterr().err.endswith(message)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([RIGHT, replace(RIGHT, model="other", problems=("bad",))], repeats=7)
    out = capsys.readouterr().out
    first, second = (line.split() for line in out.splitlines() if "e-15" in line)
    numbers = ["3", "1", "1", "1", "1.0e-07", "1.0e-15", "3.0", "2.0", "1.0", "2.00x", "3.00x"]
    assert first == ["tiny", *numbers, "right"]
    assert second == ["other", *numbers, "WRONG"]
    assert "median of 7 interleaved calls" in out
    assert "print(bnfx.explain(model, x))" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([replace(RIGHT, error=float("inf"), problems=("bad",))], repeats=7)
    document = json.loads(capsys.readouterr().out)
    assert document["repeats"] == 7
    (row,) = document["rows"]
    assert row["model"] == "tiny"
    assert row["error"] is None
    assert row["problems"] == ["bad"]
    assert (row["over_inductor"], row["over_eager"]) == (2.0, 3.0)


def test_summary_counts_and_means() -> None:
    other = replace(RIGHT, batch_norms=5, folded=3, inductor_ms=8.0)
    assert summary([RIGHT, other]) == (
        "4 of 8 BatchNorms folded away, 2 left as one multiply-add, 2 kept; all 2 answers right; "
        "4.00x as fast as Inductor alone, 3.00x as fast as eager."
    )


def test_the_picture_is_always_the_same() -> None:
    pixels = draw()
    assert pixels.shape == (224, 224, 3)
    assert pixels.min() == 0
    assert pixels.max() == 1
    np.testing.assert_array_equal(pixels, draw())
    assert image().shape == (1, 3, 224, 224)
    assert image().dtype == torch.float32


@pytest.mark.parametrize("case", cases(quick=True), ids=lambda case: case.name)
def test_models_are_seeded_and_signed(case: Case) -> None:
    model, again = case.load(), case.load()
    assert not model.training
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight < 0).any() and (norm.weight > 0).any() for norm in norms)
    with torch.no_grad():
        answer = model(image())
    assert 0.1 < answer.std() < 1e4
