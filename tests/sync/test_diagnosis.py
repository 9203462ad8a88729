"""``BNFX_SYNC_DEBUG=1`` turns what would hang, or mix up statistics, into an error."""

from __future__ import annotations

from bnfx.sync.group import DEBUG_VARIABLE
from sync.launch import run_cases

SHORT = {"SYNC_TIMEOUT": "3"}


def test_ranks_are_told() -> None:
    run_cases("cases_diagnosis", 3, timeout=120, **{DEBUG_VARIABLE: "1"}, **SHORT)


def test_a_rank_that_dies_ends_the_others() -> None:
    run_cases("cases_diagnosis", 2, "case_one_dies", timeout=60, **SHORT)
