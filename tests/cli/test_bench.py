"""``bnfx bench MODEL``: real processes, and what is said of them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

from bnfx.bench.on_models.bench_ways import LIMIT, choose
from bnfx.bench.on_models.bench_worker import Job, is_fresh, load
from bnfx.bench.on_models.model_race import Race, Row, race
from bnfx.bench.on_models.race_shown import picture, table
from bnfx.cli import app
from bnfx.cli.named_subject import named_subject

NET = """
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x, y):
        return {"sum": self.bn(self.conv(x)) + y, "x": x}


def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def two():
    return Two()


def broken():
    class Broken(nn.Module):
        calls = 0

        def forward(self, x):
            Broken.calls += 1
            if Broken.calls > 2:
                raise ValueError("no more")
            return x
    return Broken()
"""
SHAPE = ("--input", "1x3x8x8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net.py:make"], "--input 1x3x224x224"),
        (["net.py:make", "--input", "Nx3x8x8"], "write a number in place of each letter"),
        (["net.py:make", "--input", "1x4x8x8"], "do not fit the model"),
        (["net.py:make", *SHAPE, "--engine", "bnfy"], "did you mean 'bnfx'"),
        (["net.py:make", *SHAPE, "--device", "tpu"], "it is cpu or cuda"),
        (["net.py:make", *SHAPE, "--plot", "x.png"], "must end in .svg"),
        (["net.py:make", "net.py:two", *SHAPE, "--plot", "x.svg"], "name one"),
        (["net.py:make", "--zoo"], "models or --zoo"),
        ([*SHAPE], "which model?"),
        (["--rounds", "2"], "which model?"),
        (["--json"], "--json is for models and for --zoo"),
        (["net.py:make", *SHAPE, "--rows", "x"], "are for --zoo"),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, words: list[str], said: str) -> None:
    done = bench(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_ways_of_a_users_model(folder: Path) -> None:
    done = bench("net.py:make", *SHAPE, "--engine", "eager", "--engine", LIMIT, "--rounds", "2",
                 "--json", "--plot", "speed.svg")  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    eager, limit = found["rows"]
    assert (eager["way"], limit["way"]) == ("eager", LIMIT)
    for row in (eager, limit):
        assert row["low"] <= row["ms"] <= row["high"]
        assert row["error"] < 1e-5
        assert row["first_s"] > 0
    assert eager["over_eager"] == 1
    words = [text.text for text in ET.parse("speed.svg").getroot().iter() if text.text]
    assert "eager" in words


@pytest.mark.heavy
def test_every_way_of_a_users_model(folder: Path) -> None:
    done = bench("net.py:make", *SHAPE, "--rounds", "2")
    assert done.exit_code == 0, done.output
    for way in ("eager", "fx-fuse", "inductor", "freezing", "onnxruntime", "openvino", "bnfx"):
        assert f"\n {way} " in f"\n{done.stdout}" or f"\n{way}" in done.stdout
    assert "WRONG" not in done.stdout
    assert "failed" not in done.stdout
    several = bench("net.py:two", *SHAPE, "--input", "1x4x6x6", "--rounds", "1",
                    "--engine", "eager", "--engine", "bnfx", "--engine", "openvino")  # fmt: skip
    assert several.exit_code == 0, several.output
    assert "openvino is left out: it is compared on models of one input" in several.stdout


def job(way: str, source: str) -> Job:
    return Job(way, named_subject(source, ["1x3x8x8"], None, None))


@pytest.mark.slow
def test_what_fails_later_is_out_of_the_race_with_a_note(folder: Path) -> None:
    found = race([job("eager", "net.py:broken")], 2, (), lambda what: None)
    (row,) = found.rows
    assert math.isnan(row.ms)
    assert "no more" in row.note
    assert "failed" in table(found)


def test_batch_norms_that_are_identities_are_made_to_matter(folder: Path) -> None:
    model, x = load(job("eager", "net.py:make"))
    norm = model.get_submodule("model.1")
    assert norm.running_mean.abs().min() > 0  # type: ignore[union-attr, operator]
    assert x.shape == (1, 3, 8, 8)
    again, _ = load(job("eager", "net.py:make"))
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    trained = nn.BatchNorm2d(3)
    trained(torch.randn(4, 3, 2, 2))
    assert is_fresh(nn.Sequential(nn.BatchNorm2d(3)))
    assert not is_fresh(nn.Sequential(trained))
    assert not is_fresh(nn.Sequential(nn.ReLU()))


def test_what_is_left_out_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, left = choose((), "cuda", 1)
    assert ways == ["eager", "fx-fuse", "inductor", "bnfx", LIMIT]
    assert all("it is for the CPU" in why for why in left)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ways, left = choose(("eager", "openvino", "onnxruntime", "bnfx-tvm"), "cpu", 1)
    assert ways == ["eager"]
    assert left == [
        "openvino is left out: openvino is not installed",
        "onnxruntime is left out: onnxruntime and onnx are not installed",
        "bnfx-tvm is left out: tvm is not installed",
    ]


def made(way: str, ms: float, error: float = 1e-7, **more: Any) -> Row:
    values: dict[str, Any] = {"low": ms * 0.99, "high": ms * 1.01, "note": "", **more}
    return Row(
        way, ms, values["low"], values["high"], 8 / ms, error, 1.5, 2_500_000, values["note"]
    )


def held(*rows: Row) -> Race:
    return Race("net.py:make", ("1x3x8x8",), "cpu", 2, rows, (0.5, 1.5), ("tvm is left out",))


def test_the_table_and_the_picture_mark_what_is_wrong() -> None:
    found = held(made("eager", 8.0), made("fx-fuse", 4.0, error=0.5), made("bnfx", math.nan))
    text = table(found)
    (row,) = (line for line in text.splitlines() if "fx-fuse" in line)
    assert "WRONG" in row
    assert "2.00" in row
    assert text.count("WRONG") == 1
    assert "failed" in text
    assert "tvm is left out" in text
    drawn = picture(held(made("eager", 8.0), made("a<b", 4.0, error=0.5)))
    assert "WRONG" in drawn
    assert "Noise: the quartiles" in drawn
    failed = picture(held(made("eager", 8.0), made("bnfx", math.nan)))
    assert ">bnfx<" in failed
    assert ">failed<" in failed
    alone = held(replace(made("bnfx", 4.0), over_eager=math.nan))  # eager was not asked for
    assert "nan" not in picture(alone) + table(alone)
    widths = [
        float(box.get("width", 0))
        for box in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}rect")
    ][1:]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)


@pytest.mark.parametrize(("spread", "is_loud"), [(0.02, False), (0.3, True)])
def test_it_says_how_noisy_the_machine_was(spread: float, is_loud: bool) -> None:
    quiet = made("eager", 8.0, low=8 - 4 * spread, high=8 + 4 * spread)
    loud = made("bnfx", 8.0, low=2.0, high=18.0)
    said = held(quiet, loud).noise_in_words()
    assert f"{spread:.0%} apart" in said
    assert ("use a quiet machine" in said) == is_loud
