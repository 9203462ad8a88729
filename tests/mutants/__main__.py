"""Breaks each guard in turn and runs the tests that reach it: ``make mutants``.

What was found is kept in ``build/mutants.jsonl``, by the content of the file, so that a run can be
stopped and goes on later. The order is as good as drawn, so what was tried by then is a sample of
the files that were named. Survivors stand at the end; docs/reliability.md argues each.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mutants import swap
from mutants.forks import Ended, in_fork
from mutants.guards import Mutant, mutants
from mutants.session import Session
from mutants.targets import AREAS, ROOT, files
from mutants.trial import Outcome, prepare, run_pytest, trial

KEPT = ROOT / "build" / "mutants.jsonl"
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """A mutant that is to be tried.

    Args:
        tests: those that reach it, where a trial by import is to run them.
    """

    path: str
    mutant: Mutant
    tests: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        content = f"{self.path}\n{self.mutant.source}"
        return hashlib.sha256(content.encode()).hexdigest()[:24]


def main() -> None:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="files or folders, from the root of the checkout")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after that")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument(
        "--enough", type=float, default=30, help="seconds of tests that make a survivor"
    )
    parser.add_argument("--tests", nargs="+", help="run these in place of the area's")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where results are kept")
    chosen = parser.parse_args()
    prepare()
    until = time.monotonic() + chosen.seconds
    everything: list[Job] = []
    for area, paths in files(chosen.files).items():
        jobs = [
            Job(path, mutant) for path in paths for mutant in mutants((ROOT / path).read_text())
        ]
        everything += jobs
        known = _read(chosen.kept)
        wanted = [job for job in jobs if _is_wanted(known.get(job.key), chosen.again)]
        wanted.sort(key=lambda job: job.key)  # as good as drawn, so what was tried is a sample
        if wanted:
            tests = chosen.tests or AREAS[area].tests
            _try(tests, wanted, chosen.kept, until, chosen.enough)
    _print(everything, _read(chosen.kept))


def _is_wanted(row: dict[str, Any] | None, again: bool) -> bool:
    return row is None or (again and not row["killed"])


def _try(tests: Sequence[str], jobs: list[Job], kept: Path, until: float, enough: float) -> None:
    """Those that only an import shows are tried by one, after the others."""
    sources = {str(ROOT / job.path): (ROOT / job.path).read_text() for job in jobs}
    with os.fdopen(os.dup(1), "w") as out:
        left = in_fork(lambda: _collected(tests, sources, jobs, kept, until, enough, out))
    if isinstance(left, Ended):
        raise SystemExit(left.how)
    for job in left:
        if time.monotonic() < until:
            # A test that was added may reach it: `--again` asks.
            outcome = Outcome(False, 0.0, "no test reaches its file")
            if job.tests:
                outcome = trial(job.path, job.mutant.source, job.tests)
            _keep(kept, job, outcome)


def _collected(
    tests: Sequence[str],
    sources: dict[str, str],
    jobs: list[Job],
    kept: Path,
    until: float,
    enough: float,
    out: TextIO,
) -> list[Job]:
    """Try what needs no import; gives the others."""
    left: list[Job] = []

    def work(session: Session) -> None:
        failing = session.cover()
        seconds = sum(reach.seconds for reach in session.reach.values())
        print(f"{len(session.reach)} tests, {seconds:.0f} s", file=out, flush=True)
        for test in failing:
            print(f"left out, as it fails anyway: {test}", file=out, flush=True)
        plain = {path: _plain(path, source) for path, source in sources.items()}
        for job in jobs:
            if time.monotonic() > until:
                return
            path = str(ROOT / job.path)
            outcome = session.trial(path, job.mutant, plain[path])
            if outcome is None:
                left.append(Job(job.path, job.mutant, tuple(session.tests_within(path))))
                continue
            _keep(kept, job, outcome)
            if not outcome.killed:
                print(f"{job.path}:{job.mutant.line}: {job.mutant.what}", file=out, flush=True)

    session = Session(sources, work, enough)
    code = run_pytest([str(ROOT / test) for test in tests], session)
    if code:
        raise RuntimeError(f"pytest ended with {code}: {session.error}")
    return left


def _plain(path: str, source: str) -> swap.Codes:
    return swap.codes_of(compile(ast.unparse(ast.parse(source)), path, "exec"))


def _keep(kept: Path, job: Job, outcome: Outcome) -> None:
    where = {"file": job.path, "line": job.mutant.line, "what": job.mutant.what}
    row = {"key": job.key, **where, **outcome.__dict__}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _read(place: Path) -> Rows:
    if not place.exists():
        return {}
    rows = map(json.loads, place.read_text().splitlines())
    return {row.pop("key"): row for row in rows}


def _print(jobs: list[Job], known: Rows) -> None:
    found: dict[str, Counter[str]] = {}
    survivors = []
    for job in jobs:
        row = known.get(job.key)
        what = "not tried" if row is None else "killed" if row["killed"] else "survived"
        found.setdefault(job.path, Counter())[what] += 1
        if what == "survived":
            survivors.append(f"{job.path}:{job.mutant.line}: {job.mutant.what}")
    for path, counts in found.items():
        print(f"{path:52} {_words(counts)}")
    print(*survivors, sep="\n")
    total = sum(found.values(), Counter())
    tried = total["killed"] + total["survived"]
    score = 100 * total["killed"] / tried if tried else 0.0
    print(f"{_words(total)}: {score:.1f} % of {tried} killed")


def _words(found: Counter[str]) -> str:
    return ", ".join(f"{found[name]} {name}" for name in ("killed", "survived", "not tried"))


if __name__ == "__main__":
    sys.exit(main())
