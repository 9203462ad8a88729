"""Ranks that share statistics, with tensors on the device: gloo, and NCCL where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

TESTS = Path(__file__).parents[1]


def run(world: int, backend: str, device: str, folder: Path) -> None:
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    worker = str(TESTS / "gpu" / "rank_on_device.py")
    command = [sys.executable, worker]
    shared = [str(world), str(folder / "rendezvous"), backend, device]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), *shared],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=240)
            assert "checked" in out, err[-3000:]
    finally:
        for rank in ranks:
            rank.kill()


def test_two_ranks_share_a_device(device: str, tmp_path: Path) -> None:
    """One GPU serves both: gloo sends through the host."""
    run(2, "gloo", device, tmp_path)


def test_nccl_with_one_rank(cuda: str, tmp_path: Path) -> None:
    run(1, "nccl", cuda, tmp_path)
