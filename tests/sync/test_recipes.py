"""The recipes of docs/migrating.md, with real ranks and the real packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def run_recipe(name: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*command, str(Path(__file__).with_name("recipes.py")), name],
        env={**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]


def _path() -> str:
    return os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))


@pytest.mark.heavy
def test_torchrun() -> None:
    run_recipe("plain_torchrun")


@pytest.mark.heavy
def test_lightning() -> None:
    pytest.importorskip("lightning")
    run_recipe("lightning")


@pytest.mark.heavy
def test_accelerate() -> None:
    pytest.importorskip("accelerate")
    run_recipe("accelerate")
