"""Runs tests with one source file replaced, in a fork: no file is written."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from types import CodeType
from typing import Any

import pytest
from mutants.targets import ROOT

CPU_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    killed: bool
    seconds: float
    how: str


def trial(path: str, source: str, tests: tuple[str, ...]) -> Outcome:
    """Whether one of ``tests`` fails where the file ``path`` is ``source``.

    What imports the file must not be imported yet; the parent process stays as it is.
    """
    start = time.monotonic()
    child = os.fork()
    if not child:
        code = 3
        try:
            code = _in_child(path, source, tests)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    if os.WIFSIGNALED(status):
        return Outcome(True, seconds, signal.Signals(os.WTERMSIG(status)).name)
    code = os.WEXITSTATUS(status)
    # 0: all passed. 5: none ran, which would prove nothing.
    if code == 5:
        raise SystemExit(f"no test ran for {path}: {tests}")
    return Outcome(code != 0, seconds, "survived" if code == 0 else "killed")


def _in_child(path: str, source: str, tests: tuple[str, ...]) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    _replace(path, source)
    os.chdir(ROOT)
    for one in tests:  # one folder after the other, the quickest first
        code = int(pytest.main(["-x", "-q", "-m", "not heavy", "-p", "no:cacheprovider", one]))
        if code:
            return code
    return 0


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
    for name in ("numpy", "torch", "torch._dynamo", "torch.export"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    loaded = [name for name in sys.modules if name.split(".")[0] == "bnfx"]
    assert not loaded, f"{loaded[0]} is imported already, so its mutants would not be seen"
