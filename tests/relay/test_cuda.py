"""Builds for CUDA, as far as they go without a GPU: lowered fully, and their kernels counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_folded_network_has_fewer_kernels() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "cuda_kernels.py")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert len(kernels["none"]) == 3
    assert len(kernels["all"]) == 2
    unfolded, folded = ("_".join(kernels[rules]) for rules in ("none", "all"))
    assert folded.count("conv2d") < unfolded.count("conv2d")
    assert "multiply" in unfolded
    assert "multiply" not in folded
