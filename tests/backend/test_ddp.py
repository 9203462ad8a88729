"""DDP's graph splitter compiles with fake parameters: the fold waits for the first real call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_train_and_evaluate_under_ddp(tmp_path: Path, inner: str) -> None:
    worker = TESTS / "backend" / "ddp_worker.py"
    run = subprocess.run(
        [sys.executable, str(worker), str(tmp_path / "rendezvous"), inner],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
