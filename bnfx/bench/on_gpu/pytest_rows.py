"""A pytest plugin that keeps each test's outcome as it is known, and starts none past the deadline.

``python -m bnfx.bench.gpu`` passes the folder and the deadline in the environment.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from bnfx.bench.on_gpu.kept_rows import KeptRows

FOLDER = "BNFX_GPU_RESULTS"
DEADLINE = "BNFX_GPU_DEADLINE"  # of time.time
_MAX_WHY = 300


def _kept() -> KeptRows:
    return KeptRows(Path(os.environ[FOLDER]))


def pytest_runtest_setup(item: Any) -> None:
    """Skip what would begin too late; note the others as begun."""
    if time.time() > float(os.environ[DEADLINE]):
        pytest.skip("time was up")
    _kept().add("test", item.nodeid, {"outcome": "begun"})


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the outcome, once it is known."""
    if report.when != "call" and report.passed:
        return
    why = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(getattr(crash, "message", report.longrepr))
    elif report.skipped and isinstance(report.longrepr, tuple):
        why = str(report.longrepr[-1])
    values = {
        "outcome": report.outcome,
        "seconds": round(report.duration, 1),
        "why": why[:_MAX_WHY],
    }
    _kept().add("test", report.nodeid, values)
