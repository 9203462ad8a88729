"""Tests that are collected once and run in forks, each with one guard broken."""

from __future__ import annotations

import gc
import importlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from mutants import cover, swap
from mutants.forks import SPARE, Ended, in_fork, limit
from mutants.guards import Mutant
from mutants.targets import module_name
from mutants.trial import Outcome, Steady


@dataclass(frozen=True)
class Reach:
    """What a test reaches, and for how long it runs."""

    seconds: float
    units: frozenset[int]


@dataclass(eq=False)
class Session(Steady):
    """A plugin of pytest: in place of the loop over tests, ``work`` is called.

    Args:
        sources: of the files whose guards are broken, by path.
        work: is given this, when all tests are collected.
        enough: seconds of tests that a mutant must live through.
    """

    sources: dict[str, str]
    work: Callable[[Session], None]
    enough: float
    items: dict[str, pytest.Item] = field(default_factory=dict)
    marked: dict[str, cover.Marked] = field(default_factory=dict)
    loaded: dict[str, swap.Loaded] = field(default_factory=dict)
    reach: dict[str, Reach] = field(default_factory=dict)
    killers: Counter[str] = field(default_factory=Counter)
    alone: dict[str, bool] = field(default_factory=dict)
    failed: bool = False
    error: str = "tests that cannot be collected"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted(self.error)
        self.items = {item.nodeid: item for item in session.items}
        for path in self.sources:  # the product imports some when they are first used
            importlib.import_module(module_name(path))
        gc.unfreeze()
        self.loaded = swap.loaded(self.sources)
        gc.freeze()
        start = 0
        for path, source in self.sources.items():
            self.marked[path] = cover.marked(source, start)
            start += len(self.marked[path].units) + 1
        try:
            self.work(self)
        except BaseException:
            self.error = traceback.format_exc()  # pytest prints it where nobody sees it
            raise
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def passes(self, test: str) -> bool:
        """Run one test here, all its fixtures anew."""
        self.failed = False
        item = self.items[test]
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed

    def cover(self) -> list[str]:
        """Find out what each test reaches; gives the tests that fail anyway, which are left out."""
        found = in_fork(self._cover)
        if isinstance(found, Ended):
            raise SystemExit(f"the tests do not run as they are: {found.how}")
        self.reach = {test: reach for test, reach in found.items() if reach is not None}
        return [test for test, reach in found.items() if reach is None]

    def _cover(self) -> dict[str, Reach | None]:
        hits: set[int] = set()
        cover.listen(hits.add)
        for path, marked in self.marked.items():
            self.loaded[path].swap(swap.codes_of(compile(marked.tree, path, "exec")))
        found: dict[str, Reach | None] = {}
        for test in self.items:
            hits.clear()
            start = time.process_time()
            passed = self.passes(test)
            reach = Reach(time.process_time() - start, frozenset(hits))
            found[test] = reach if passed else None
        return found

    def tests_of(self, path: str, line: int) -> list[str]:
        """The tests that reach the line: those that killed before first, then the quickest."""
        units = self.marked[path].around(line)
        fitting = [test for test, reach in self.reach.items() if not units.isdisjoint(reach.units)]
        return sorted(fitting, key=lambda test: (-self.killers[test], self.reach[test].seconds))

    def tests_within(self, path: str) -> list[str]:
        """The tests that reach any line of the file, the quickest first."""
        units = self.marked[path].units.keys()
        fitting = [test for test, reach in self.reach.items() if not units.isdisjoint(reach.units)]
        return sorted(fitting, key=lambda test: self.reach[test].seconds)

    def trial(self, path: str, mutant: Mutant, plain: swap.Codes) -> Outcome | None:
        """Whether a test fails; ``None`` where only an import of the mutant would tell."""
        other = swap.codes_of(compile(mutant.source, path, "exec"))
        tests = self.tests_of(path, mutant.line)
        if not tests or not self.loaded[path].takes(plain, other):
            return None
        start = time.monotonic()
        found = in_fork(lambda: self._killer(path, other, tests))
        while isinstance(found, str) and not self._stands_alone(found):
            tests.remove(found)
            found = in_fork(lambda: self._killer(path, other, tests))
        seconds = time.monotonic() - start
        if isinstance(found, Ended):
            return Outcome(True, seconds, found.how)
        if found is not None:
            # What killed lately is tried first, but not for ever.
            self.killers = Counter({test: n - 1 for test, n in self.killers.items() if n > 1})
            self.killers[found] = 4
        return Outcome(found is not None, seconds, found or "survived")

    def _stands_alone(self, test: str) -> bool:
        """Whether it passes where nothing is broken and no other test ran before; asked once. One
        that does not kills nothing.
        """
        if test not in self.alone:
            self.alone[test] = in_fork(lambda: self.passes(test)) is True
            if not self.alone[test]:
                del self.reach[test]
        return self.alone[test]

    def _killer(self, path: str, other: swap.Codes, tests: Sequence[str]) -> str | None:
        self.loaded[path].swap(other)
        limit(round(2 * self.enough) + SPARE)
        for test in tests:
            if time.process_time() > self.enough:
                return None
            if not self.passes(test):
                return test
        return None
