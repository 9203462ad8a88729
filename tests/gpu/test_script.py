"""The script of ``make gpu`` itself, run on the CPU at small sizes: it needs no GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnfx.bench import gpu
from bnfx.bench.on_gpu.cells import plan
from bnfx.bench.on_gpu.kept_rows import KeptRows
from bnfx.bench.on_gpu.ways_to_run import NAMES, WAYS

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bnfx.bench.gpu", "--device", "cpu", "--out", str(folder)]
    # As on a machine where bnfx is not installed: no site-packages of ours name the backend.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.heavy
def test_tests_are_run_and_kept(tmp_path: Path) -> None:
    """Some of them: what runs, and what only CUDA has."""
    files = (
        "tests/gpu/test_options_on_device.py::test_cudnn_ops_are_their_parts",
        "tests/gpu/test_cuda_graphs.py",
    )
    done = run(tmp_path / "out", "--parts", "tests", "--tests", *files)
    assert done.returncode == 0, done.stderr[-2000:]
    found = results(tmp_path / "out")
    outcomes = [row["outcome"] for row in found["test"]]
    assert outcomes.count("passed") == 4
    assert {row["why"] for row in found["test"] if row["outcome"] == "skipped"} == {
        "Skipped: only CUDA has it"
    }
    assert "Tests: 4 passed" in (tmp_path / "out" / "results.md").read_text()
    assert {"device", "torch", "CUDA", "measured"} <= found["machine"][0].keys()


@pytest.mark.heavy
def test_past_the_deadline_nothing_begins(tmp_path: Path) -> None:
    """And that nothing was measured is an exit status."""
    done = run(tmp_path / "out", "--seconds", "-1", "--tests", "tests/gpu/test_number_formats.py")
    assert done.returncode == 1
    found = results(tmp_path / "out")
    assert {row["outcome"] for row in found["test"]} == {"skipped"}
    assert {row["why"] for row in found["test"]} == {"Skipped: time was up"}
    assert found["speed"] == found["training"] == []
    text = (tmp_path / "out" / "results.md").read_text()
    assert "Speed: not measured." in text


@pytest.mark.heavy
def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    """What was begun is not begun again, be it that it ended the process."""
    kept = KeptRows(tmp_path / "out")
    (cell,) = plan("small")
    kept.add("begun", f"{cell.name}: {len(cell.ways)} ways", {})
    for name in ("eager", "Inductor", "bnfx, traced"):
        kept.add("begun", f"step {name}", {})
    speed = {"ms": {"eager": 1.0}, "waited_ms": {"eager": 2.0}, "errors": {}, "failed": {}}
    kept.add("speed", "there before", speed)
    done = run(tmp_path / "out", "--parts", "bench")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [row["name"] for row in results(tmp_path / "out")["speed"]] == ["there before"]


def test_a_line_that_was_cut_off_costs_itself(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    kept.add("test", "one", {"outcome": "begun"})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"kind": "test", "na\n')
    kept.add("test", "two", {"outcome": "failed", "why": "a | b\nc"})
    kept.add("test", "one", {"outcome": "passed"})
    assert [(row["name"], row["outcome"]) for row in kept.rows("test")] == [
        ("one", "passed"),
        ("two", "failed"),
    ]
    assert "| two | failed | a \\| b c |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_without_cuda_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bnfx.bench.gpu", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no CUDA device here. To try the script: --device cpu" in done.stderr


def test_the_backend_has_a_name_where_bnfx_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "entry_points", lambda **group: ())
        environment = gpu._environment(tmp_path, "cuda")
    program = (
        "import importlib.metadata as m\n"
        "print(*m.entry_points(group='torch_dynamo_backends', name='bnfx'))"
    )
    command = [sys.executable, "-S", "-c", program]  # -S: without what is installed
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "bnfx.backend:bnfx" in done.stdout
    assert environment["BNFX_DEVICE"] == "cuda"


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "_NEEDED", ("no_such_package", "numpy"))
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "This needs no_such_package: install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan() -> None:
    cells = plan("full")
    names = [(cell.name, cell.ways) for cell in cells]
    assert len(names) == len(set(names))
    assert {cell.model for cell in cells[:10]} == {cell.model for cell in cells}
    wanted = {
        (model, batch, number_format)
        for model in {cell.model for cell in cells}
        for batch in (1, 8, 64)
        for number_format in ("fp32", "fp16", "bf16")
    }
    assert wanted == {
        (cell.model, cell.batch, cell.number_format) for cell in cells if cell.ways == NAMES
    }


@pytest.mark.heavy
def test_all_of_it(tmp_path: Path) -> None:
    """``make gpu GPU_ARGS=...``: every test and every way, whole."""
    arguments = f"--device cpu --seconds 2400 --out {tmp_path / 'out'}"
    done = subprocess.run(
        ["make", "gpu", f"PYTHON={sys.executable}", f"GPU_ARGS={arguments}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = results(tmp_path / "out")
    assert {row["outcome"] for row in found["test"]} == {"passed", "skipped"}
    assert {row["why"] for row in found["test"] if row["outcome"] == "skipped"} <= {
        "Skipped: only CUDA has it",
        "Skipped: there is no CUDA device here",
    }
    (row,) = found["speed"]
    assert row["failed"] == {}
    assert set(row["ms"]) == {name for name, way in WAYS.items() if not way.needs_gpu}
    assert max(row["errors"].values()) < 1e-5
    assert [row["name"] for row in found["training"]] == ["eager", "Inductor", "bnfx, traced"]
    assert all("ms" in row for row in found["training"])
