"""``BNFX_SYNC_DEBUG=1`` turns what would hang, or mix up statistics, into an error."""

from __future__ import annotations

from bnfx.sync.group import DEBUG_VARIABLE
from sync.launch import run_cases


def test_ranks_are_told() -> None:
    run_cases("cases_diagnosis", 3, **{DEBUG_VARIABLE: "1"})


def test_a_rank_that_dies_ends_the_others() -> None:
    for case in ("one_dies", "one_dies_before_a_graph", "one_dies_before_backward"):
        run_cases("cases_diagnosis", 2, f"case_{case}")
