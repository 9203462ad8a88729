"""The backend under a process group, against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

from sync.launch import run_cases

# On three ranks, what two cannot show.
THREE = ["case_whole_graphs", "case_options", "case_frozen_layers", "case_empty_rank"]


def test_two_ranks(tmp_path: Path) -> None:
    run_cases("cases_backend", 2, timeout=1500, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


def test_three_ranks() -> None:
    run_cases("cases_backend", 3, *THREE)


def test_a_world_of_one_costs_nothing() -> None:
    run_cases("cases_alone", 1)
