"""The harness breaks what it says, and sees both a guard that is tested and one that is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mutants.guards import mutants
from mutants.targets import ROOT, SOURCES, files, suite_of

GUARDED = '''
def take(items, at, strict=True):
    """Take one."""
    if at < 0 or not items:
        raise ValueError(at)
    return [item for item in items if item is not None][at]
'''


def test_each_guard_is_broken_in_each_way() -> None:
    found = {mutant.what for mutant in mutants(GUARDED)}
    assert found == {
        "False for True",
        "never: if at < 0 or not items",
        "always: if at < 0 or not items",
        "without: at < 0",
        "without: not items",
        "flipped: at < 0",
        "without not: items",
        "not raised: raise ValueError(at)",
        "without: if item is not None",
        "flipped: item is not None",
    }


def test_a_mutant_changes_one_thing() -> None:
    sources = [mutant.source for mutant in mutants(GUARDED)]
    assert len(set(sources)) == len(sources)
    for source in sources:
        compile(source, "mutant", "exec")
        assert '"""Take one."""' in source


def test_every_source_has_tests() -> None:
    for path in files(list(SOURCES)):
        for test in suite_of(path):
            assert (ROOT / test).exists(), test


@pytest.mark.heavy
def test_mutants_of_one_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    command = [sys.executable, "-m", "mutants", "passes/crossing/homogeneous.py", "--kept", kept]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""}
    for _ in range(2):  # the second time, all is known
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert "100.0 % of 2 killed" in done.stdout
    assert len(kept.read_text().splitlines()) == 2
