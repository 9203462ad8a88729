"""docs/compare.md claims nothing without a program, and the programs show what it says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "docs/compare"
PAGE = (HERE.parent / "compare.md").read_text()
SPEC = importlib.util.spec_from_file_location("run_comparisons", HERE / "run.py")
assert SPEC is not None
assert SPEC.loader is not None
comparisons = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = comparisons
SPEC.loader.exec_module(comparisons)


def claimed(program: str) -> list[list[str]]:
    """The page's rows of a program."""
    rows = re.findall(rf"^\| (.*) \| \[{program}\]\(compare/{program}\) \|$", PAGE, re.MULTILINE)
    return [row.split(" | ") for row in rows]


@pytest.mark.parametrize("program", [path.name for path in comparisons.PROGRAMS])
def test_each_program_has_its_rows_and_each_peer_a_version(program: str) -> None:
    rows = claimed(program)
    assert rows
    for peer, _, theirs, ours in rows:
        assert re.search(r"\(\S+ \d+\.\d+", peer)
        assert re.match(r"[\d.e+-]+$|raises|answers", theirs)
        assert ours == "does not read ONNX" or float(ours) < 1e-5
        assert not re.match(r"[\d.]+e-", theirs), "that is no wrong answer"


def test_rows_of_peers_that_are_not_installed_stay() -> None:
    there = "| Torch (torch 2.0) | a case | 0.5 | 1.0e-07 | [p.py](compare/p.py) |\n"
    gone = "| Gone (gone-peer 1.0) | a case | 0.7 | does not read ONNX | [p.py](compare/p.py) |\n"
    kept = list(comparisons.kept("p.py", there + gone))
    assert [row["peer"] for row in kept] == ["Gone (gone-peer 1.0)"]
    assert gone in comparisons.table(kept)
    assert list(comparisons.kept("q.py", gone)) == []


@pytest.mark.heavy
@pytest.mark.parametrize("path", comparisons.PROGRAMS, ids=lambda path: path.name)
def test_the_programs_show_what_the_page_says(path: Path) -> None:
    found = {row["case"]: row for row in comparisons.rows(path)}
    cases = {case for _, case, *_ in claimed(path.name)}
    assert set(found) <= cases
    assert cases - set(found) <= {"conv(x) * s, s of shape (C,), width C"}  # OnnxSlim's
    for row in found.values():
        assert row["bnfx"] == "" or float(row["bnfx"]) < 1e-5
        assert not re.match(r"[\d.]+e-", row["theirs"]), "mended there: drop the row"
