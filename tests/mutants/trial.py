"""Runs tests with one source file replaced when it is imported, in a fork: no file is written."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import CodeType
from typing import Any

import pytest
from mutants.forks import CPU_SECONDS, Ended, in_fork, limit
from mutants.targets import HAS_TORCH, ROOT

QUICK = ("-q", "-m", "not heavy and not slow", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Outcome:
    killed: bool
    seconds: float
    how: str


class Steady:
    """A plugin of pytest: each trial sees the same examples of Hypothesis, and none is made
    smaller, as that it fails is all that counts.
    """

    def pytest_configure(self) -> None:
        if find_spec("hypothesis") is None:  # Relay's tests do without
            return
        from hypothesis import HealthCheck, Phase, settings

        phases, checks = (Phase.explicit, Phase.generate), list(HealthCheck)
        options = {"derandomize": True, "database": None, "deadline": None}
        settings.register_profile("mutants", phases=phases, suppress_health_check=checks, **options)
        settings.load_profile("mutants")


@dataclass(frozen=True)
class Only(Steady):
    """A plugin of pytest that takes these tests, in this order."""

    tests: Sequence[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[test] for test in self.tests if test in by_name]


def trial(path: str, source: str, tests: Sequence[str]) -> Outcome:
    """Whether one of ``tests`` fails where the file ``path`` is ``source``.

    What imports the file must not be imported yet; the parent process stays as it is.

    Raises:
        SystemExit: if no test ran, which would prove nothing.
    """
    start = time.monotonic()
    found = in_fork(lambda: _in_child(path, source, tests))
    seconds = time.monotonic() - start
    if isinstance(found, Ended):
        return Outcome(True, seconds, found.how)
    if found == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise SystemExit(f"no test ran for {path}: {tests}")
    return Outcome(found != 0, seconds, "survived" if found == 0 else "when imported")


def _in_child(path: str, source: str, tests: Sequence[str]) -> int:
    limit(CPU_SECONDS)
    _replace(path, source)
    return run_pytest([f"{ROOT}/{name}" for name in _files(tests)], Only(tests))


def run_pytest(paths: Sequence[str], plugin: object) -> int:
    """The exit code of pytest, which prints nothing."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    os.chdir(ROOT)
    return int(pytest.main(["-x", *QUICK, *paths], plugins=[plugin]))


def _files(tests: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(test.partition("::")[0] for test in tests))


def _replace(path: str, source: str) -> None:
    target = os.path.realpath(ROOT / path)
    real = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> CodeType | None:
        if os.path.realpath(self.get_filename(name)) == target:
            return compile(source, target, "exec")
        return real(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def prepare() -> None:
    """Import once what all trials need, and nothing of bnfx."""
    if HAS_TORCH:
        for name in ("numpy", "torch", "torch._dynamo", "torch.export"):
            importlib.import_module(name)
        sys.modules["torch"].set_num_threads(1)
    loaded = [name for name in sys.modules if name.split(".")[0] == "bnfx"]
    assert not loaded, f"{loaded[0]} is imported already, so its mutants would not be seen"
