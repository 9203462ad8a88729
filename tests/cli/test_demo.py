"""``bnfx demo``: it shows what happened, and says so when an answer is wrong."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import bnfx
from bnfx import cli, demo
from bnfx.bench.on_models.bench_worker import Subject
from bnfx.bench.on_models.image import draw, image
from bnfx.bench.on_models.model_race import Row
from bnfx.demo.comparison import print_json, print_table, summary
from bnfx.demo.measure import STEPS, WAYS, Calls, DemoRow, Folded, measure, row_of
from bnfx.demo.networks import cases

RIGHT = DemoRow("tiny", 3, 1, 1, 1, 1e-7, 1e-15, 3.0, 2.0, 1.0)


# One BatchNorm to fold, one to leave as a multiply-add, one that stays.
TINY = """
import torch
from torch import nn

from bnfx.bench.on_models.image import image
from bnfx.demo.networks import randomise


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8)
        self.folds = nn.BatchNorm2d(8)
        self.lowers = nn.BatchNorm2d(8)
        self.stays = nn.BatchNorm1d(8)

    def forward(self, x):
        x = self.lowers(torch.relu(self.folds(self.conv(x))))
        return self.stays(x.flatten(2).sin())


def load(gain):
    model = randomise(Tiny().eval())
    model.stays.track_running_stats = False  # normalises by the batch, even in evaluation
    model.stays.running_mean = model.stays.running_var = None
    model.conv.weight.detach().mul_(gain)
    return model, (image(),)
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A model that other processes can load, too."""
    return subject(tmp_path, monkeypatch, gain=1.0)


def subject(folder: Path, monkeypatch: pytest.MonkeyPatch, gain: float) -> Subject:
    (folder / "tiny_demo_case.py").write_text(TINY)
    monkeypatch.syspath_prepend(folder)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return Subject("tiny", ("1x3x224x224",), "tiny_demo_case:load", {"gain": gain})


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


@pytest.mark.slow
def test_a_row_and_a_table_of_real_processes(
    tiny: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    row = measure(tiny, repeats=2, tell=told.append)
    assert row.problems == ()
    assert (row.batch_norms, row.folded, row.multiply_add, row.kept) == (3, 1, 1, 1)
    assert 0 < row.error < 1e-4
    assert 0 < row.error_float64 < 1e-13
    assert min(row.eager_ms, row.inductor_ms, row.bnfx_ms) > 0
    assert row.over_inductor == row.inductor_ms / row.bnfx_ms
    assert row.over_eager == row.eager_ms / row.bnfx_ms
    assert len(told) == STEPS
    assert [step for step in told if step.endswith("bnfx")]


def test_what_is_printed(
    tiny: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "measure", lambda case, repeats, tell: [tell("x"), RIGHT][1])
    assert demo.run([tiny], repeats=1) == 0
    printed = capsys.readouterr()
    assert "all 1 answers right" in printed.out
    assert printed.err.splitlines() == [f"[1/{STEPS}] tiny: x"]


def timed(way: str, **values: float | str) -> Row:
    given = {"ms": 2.0, "error": 1e-7, "note": "", **values}
    return Row(way, given["ms"], 1.9, 2.1, 1.0, given["error"], 1.0, 0, given["note"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"error": 1.1e-3}, "the float32 error 1.1e-03 is above 1e-04"),
        ({"error": math.inf}, "the float32 error inf is above 1e-04"),
        ({"ms": math.nan, "error": math.nan, "note": "it ended"}, "bnfx failed: it ended"),
    ],
)
def test_a_wrong_answer_is_status_1(
    values: dict[str, float | str],
    problem: str,
    tiny: Subject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, (picture,) = tiny.load()
    rows = [timed("eager"), timed("inductor"), timed("bnfx", **values)]
    row = row_of("tiny", Folded.of(model, picture), 1e-15, 1.0, rows)
    assert row.problems == (problem,)
    monkeypatch.setattr(demo, "measure", lambda case, repeats, tell: row)
    assert demo.run([tiny], repeats=1) == 1
    printed = capsys.readouterr()
    assert f"bnfx demo: tiny: {problem}" in printed.err.splitlines()
    assert "WRONG" in printed.out


def test_a_report_that_the_graphs_belie_is_a_problem(tiny: Subject) -> None:
    model, (picture,) = tiny.load()
    found = replace(Folded.of(model, picture), after=Calls(batch_norms=2, multiplies=1))
    row = row_of("tiny", found, 1e-9, 1e-4, [timed(way) for way in WAYS])
    assert row.problems == (
        "the float64 error 1.0e-09 is above 1e-10",
        "the answer hardly depends on the picture (1.0e-04)",
        "the report says 1 kept BatchNorms, the graph has 2",
    )


@pytest.mark.slow
def test_no_cxx_compiler_is_status_2(
    tiny: Subject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or the cache would serve it
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    status = demo.run([tiny], repeats=1)
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
    assert "median of 7 calls" in out
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
def test_models_are_seeded_and_signed(case: Subject) -> None:
    (model, (picture,)), (again, _) = case.load(), case.load()
    assert not model.training
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight < 0).any() and (norm.weight > 0).any() for norm in norms)
    with torch.no_grad():
        answer = model(picture)
    assert 0.1 < answer.std() < 1e4
