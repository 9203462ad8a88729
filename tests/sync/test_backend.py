"""The backend under a process group, against one process with the whole batch."""

from __future__ import annotations

from sync.launch import run_cases


def test_ranks() -> None:
    run_cases("cases_backend", 2)
