"""Breaks each guard in turn and runs the tests of its file: ``make mutants``.

What was found is kept in ``build/mutants.jsonl``, by the content of the file, so that a run can be
stopped and goes on later. Survivors stand at the end; docs/reliability.md argues each.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutants.guards import Mutant, mutants
from mutants.targets import ROOT, files, suite_of
from mutants.trial import prepare, trial

KEPT = ROOT / "build" / "mutants.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="files or folders, from the root of the checkout")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after that")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument("--limit", type=int, default=10**9, help="at most so many of each file")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where results are kept")
    chosen = parser.parse_args()
    prepare()
    known = _read(chosen.kept)
    began = time.monotonic()
    total: Counter[str] = Counter()
    survivors: list[str] = []
    passing: set[tuple[str, ...]] = set()
    for path in files(chosen.files):
        found: Counter[str] = Counter()
        for mutant in list(mutants((ROOT / path).read_text()))[: chosen.limit]:
            key = _key(path, mutant)
            row = known.get(key)
            if row is None or (chosen.again and not row["killed"]):
                if time.monotonic() - began > chosen.seconds:
                    found["not tried"] += 1
                    continue
                if suite_of(path) not in passing:
                    _check_tests(path)
                    passing.add(suite_of(path))
                row = _try(path, mutant)
                known[key] = row
                _append(chosen.kept, {"key": key, **row})
            found["killed" if row["killed"] else "survived"] += 1
            if not row["killed"]:
                survivors.append(f"{path}:{mutant.line}: {mutant.what}")
        total += found
        print(f"{path:52} {_words(found)}", flush=True)
    print(*survivors, sep="\n")
    tried = total["killed"] + total["survived"]
    score = 100 * total["killed"] / tried if tried else 0.0
    print(f"{_words(total)}: {score:.1f} % of {tried} killed")


def _check_tests(path: str) -> None:
    """Tests that fail anyway would kill every mutant."""
    source = ast.unparse(ast.parse((ROOT / path).read_text()))
    outcome = trial(path, source, suite_of(path))
    if outcome.killed:
        raise SystemExit(f"the tests of {path} fail as it is ({outcome.how}): {suite_of(path)}")


def _try(path: str, mutant: Mutant) -> dict[str, Any]:
    outcome = trial(path, mutant.source, suite_of(path))
    where = {"file": path, "line": mutant.line, "what": mutant.what}
    return {**where, "killed": outcome.killed, "how": outcome.how, "seconds": outcome.seconds}


def _words(found: Counter[str]) -> str:
    return ", ".join(f"{found[name]} {name}" for name in ("killed", "survived", "not tried"))


def _key(path: str, mutant: Mutant) -> str:
    return hashlib.sha256(f"{path}\n{mutant.source}".encode()).hexdigest()[:24]


def _read(place: Path) -> dict[str, dict[str, Any]]:
    if not place.exists():
        return {}
    rows = map(json.loads, place.read_text().splitlines())
    return {row.pop("key"): row for row in rows}


def _append(place: Path, row: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
