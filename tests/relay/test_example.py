"""The example runs as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tvm_relay_cpu() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "tvm_relay_cpu.py")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "3 BatchNorms: 3 folded" in done.stdout
    assert "largest difference" in done.stdout
