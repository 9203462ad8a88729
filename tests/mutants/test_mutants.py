"""The harness breaks what it says, and sees both a guard that is tested and one that is not."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mutants.cover import listen, marked
from mutants.guards import mutants
from mutants.swap import codes_of, loaded
from mutants.targets import AREAS, HAS_TORCH, ROOT, files, module_name

GUARDED = '''
def take(items, at, strict=True):
    """Take one."""
    assert items is not None and isinstance(items, list)
    if at < 0 or not items:
        raise ValueError(at)
    pairs = zip(items, items, strict=True)
    return [item for item, _ in pairs if item is not None][at]
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


def test_every_area_has_sources_and_tests() -> None:
    assert files([]).keys() == {name for name, area in AREAS.items() if area.torch == HAS_TORCH}
    for area in AREAS.values():
        for path in (*area.sources, *area.tests):
            assert (ROOT / path).exists(), path
    assert files(["passes/rules/cost.py"]) == {"rules": ["passes/rules/cost.py"]}
    for path in ("README.md", "passes/relay"):  # Relay has a Python of its own
        with pytest.raises(SystemExit, match=f"no tests are named for {path} in this Python"):
            files([path])


@pytest.mark.parametrize("path", ["passes/rules/cost.py", "passes/graph.py"])
def test_a_file_is_imported_by_the_name_that_the_product_uses(path: str) -> None:
    """No test has to import it at its top."""
    found = import_module(module_name(str(ROOT / path))).__file__
    assert Path(str(found)).resolve() == (ROOT / path).resolve()


def test_code_is_put_into_what_is_loaded(tmp_path: Path) -> None:
    """Also into methods, properties and lambdas that were handed on; not what ran at import."""
    source = "class A:\n    @property\n    def one(self): return 1\n"
    source += "TABLE = {'one': lambda: 1}\nTWO = 2\ndef two(): return 2\n"
    path = tmp_path / "module.py"
    path.write_text(source)
    space: dict[str, Any] = {}
    exec(compile(source, str(path), "exec"), space)
    module = loaded({str(path): source})[str(path)]
    other = codes_of(compile(source.replace("1", "5"), str(path), "exec"))
    assert module.takes(module.codes, other)
    module.swap(other)
    assert (space["A"]().one, space["TABLE"]["one"](), space["two"]()) == (5, 5, 2)
    at_import = codes_of(compile(source.replace("TWO = 2", "TWO = 3"), str(path), "exec"))
    assert not module.takes(module.codes, at_import)


def test_statements_say_that_they_are_reached() -> None:
    marked_source = marked(GUARDED, 10)
    reached: set[int] = set()
    listen(reached.add)
    space: dict[str, Any] = {}
    exec(compile(marked_source.tree, "guarded", "exec"), space)
    assert not reached
    assert space["take"]([7], 0) == 7
    guard, error, result = (marked_source.around(line) for line in (5, 6, 7))
    assert guard | result <= reached
    assert not error & reached
    assert marked_source.around(1) == set()  # nothing but an import is there


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
