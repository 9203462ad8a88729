"""Everything that needs a GPU, in one call: the tests that are marked so, then the benchmarks.

Run as ``python -m bnfx.bench.gpu`` from a checkout (``make gpu``), with the Python at hand: it
needs PyTorch, torchvision, timm and pytest, and does not need bnfx to be installed. It keeps to its
time (``--seconds``, 450 by default), the most telling tests and models first. Each row is kept as
soon as it is there, in ``--out``: ``results.md``, ``results.json`` and ``rows.jsonl``. Called again
with the same folder, it goes on where it stopped. ``--device cpu`` runs all of it at small sizes,
to try the script itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bnfx.bench.on_gpu import pytest_rows
from bnfx.bench.on_gpu.kept_rows import KeptRows
from bnfx.bench.on_gpu.machine import machine

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/gpu/test_answers.py",
    "tests/gpu/test_writes_on_device.py",
    "tests/gpu/test_cuda_graphs.py",
    "tests/gpu/test_options_on_device.py",
    "tests/gpu/test_number_formats.py",
    "tests/gpu/test_streams_and_moves.py",
    "tests/gpu/test_fold_and_export.py",
    "tests/gpu/test_ranks_on_device.py",
    "tests/relax/test_cuda.py",  # where there is TVM
)
_NEEDED = ("array_api_compat", "numpy", "pytest", "rich", "timm", "torchvision", "typer")
_SHARE_OF_TESTS = 0.45
_GRACE = 45.0  # seconds that what has begun may take past its deadline
_MAX_PROCESSES = 4  # that measure, one after the other, where the device fails


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if a test failed, or nothing was measured."""
    chosen = _parsed(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here. To try the script: --device cpu", file=sys.stderr)
        return 2
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        hint = "install them, or put their wheels on PYTHONPATH (docs/cuda.md)"
        print(f"This needs {', '.join(missing)}: {hint}", file=sys.stderr)
        return 2
    end = time.monotonic() + chosen.seconds
    kept = KeptRows(chosen.out)
    kept.add("machine", time.strftime("%Y%m%d-%H%M%S"), machine(chosen.device))
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder), chosen.device)
        if "tests" in chosen.parts:
            share = _SHARE_OF_TESTS if "bench" in chosen.parts else 1.0
            _run_tests(chosen, environment, chosen.seconds * share)
        if "bench" in chosen.parts:
            _measure(chosen, environment, end)
    print((chosen.out / "results.md").read_text())
    failed = [row for row in kept.rows("test") if row["outcome"] in ("failed", "begun")]
    unmeasured = "bench" in chosen.parts and not kept.rows("speed")
    return 1 if failed or unmeasured else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bnfx.bench.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=450.0, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of results")
    parser.add_argument(
        "--parts", nargs="+", choices=("tests", "bench"), default=["tests", "bench"]
    )
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files of tests")
    parser.add_argument("--size", choices=("full", "small"), help="small on CPU by default")
    chosen = parser.parse_args(arguments)
    chosen.out = chosen.out.absolute()
    chosen.size = chosen.size or ("full" if chosen.device == "cuda" else "small")
    return chosen


def _environment(folder: Path, device: str) -> dict[str, str]:
    """For the processes: these sources, and the backend's name, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not importlib.metadata.entry_points(group="torch_dynamo_backends", name="bnfx"):
        info = folder / "bnfx-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bnfx\nVersion: 0\n")
        (info / "entry_points.txt").write_text(
            "[torch_dynamo_backends]\nbnfx = bnfx.backend:bnfx\n"
        )
        paths.append(str(folder))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "BNFX_DEVICE": device}


def _run_tests(chosen: argparse.Namespace, environment: dict[str, str], seconds: float) -> None:
    """In a process that is ended where it hangs; what ran is kept."""
    own = {
        pytest_rows.FOLDER: str(chosen.out),
        pytest_rows.DEADLINE: str(time.time() + seconds),
    }
    without_tvm = importlib.util.find_spec("tvm") is None
    files = [name for name in chosen.tests if not (without_tvm and name.startswith("tests/relax"))]
    options = [
        "-q",
        "-m",
        "gpu",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-p",
        pytest_rows.__name__,
    ]
    command = [sys.executable, "-m", "pytest", *options, *files]
    _run(command, {**environment, **own}, seconds + _GRACE)


def _measure(chosen: argparse.Namespace, environment: dict[str, str], end: float) -> None:
    for _ in range(_MAX_PROCESSES):
        seconds = end - time.monotonic()
        if seconds <= 0:
            return
        command = [sys.executable, "-m", "bnfx.bench.on_gpu.measured", str(chosen.out)]
        command += ["--device", chosen.device, "--size", chosen.size, "--seconds", str(seconds)]
        if _run(command, environment, seconds + _GRACE) == 0:
            return


def _run(command: Sequence[str], environment: dict[str, str], seconds: float) -> int:
    """Its exit status; it is ended, with what it started, after so many seconds."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
