"""Work in child processes that may not end by themselves."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CPU_SECONDS = 150
# What a trial may compute beyond twice the tests that it must live through: then it hangs.
SPARE = 10


@dataclass(frozen=True)
class Ended:
    """A child that gave nothing, and why."""

    how: str


def in_fork(work: Callable[[], Any]) -> Any:
    """What ``work`` gives in a child process, or `Ended`."""
    with tempfile.TemporaryFile() as file:  # a pipe might be held open by the child's children
        child = os.fork()
        if not child:
            try:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                found = work()
            except BaseException as error:
                found = Ended(repr(error))
            pickle.dump(found, file)
            file.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return Ended(signal.Signals(os.WTERMSIG(status)).name)
        file.seek(0)
        return pickle.load(file)


def limit(seconds: int) -> None:
    """End this process when it has computed for so long, or waited for ten minutes: others may
    keep the machine busy.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    signal.alarm(600)
