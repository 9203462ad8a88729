"""When weights that changed are frozen again.

A compiler that takes long is given a number of times, in the thread of a call (:class:`Patience`);
an engine, which takes a second or so, a share of the time, in a thread of its own
(:class:`Budget`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bnfx.inner.locks import Lock, tell_of_forks

log = logging.getLogger("bnfx")

# Calls without a change after which weights count as settled, the first time; four times as many
# after each freeze that a change made worthless.
QUIET_CALLS = 4
# Times that one graph is frozen again. Each is a compilation; after that, the live body serves.
MAX_REFREEZES = 4
# Seconds that an engine may spend on building anew, for each second since it was first built.
SHARE = 0.25
# Of the threads that do so.
THREAD_NAME = "bnfx rebuild"


@dataclass(eq=False)
class Quiet:
    """What one state of the weights has seen.

    Args:
        calls: since the change that it came of. Threads may lose count, which delays a freeze by as
            many.
        frozen: whether some thread freezes it, or did.
    """

    calls: int = 0
    frozen: bool = False


class Patience:
    """Bounds how often a graph is frozen again; a loop that trains and evaluates ends up live."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._frozen = 0

    def take(self, quiet: Quiet) -> bool:
        """Whether to freeze that state now; uses up one of the times.

        Of threads that ask at once, and while the first of them freezes, one is told so.
        """
        if quiet.frozen or quiet.calls < QUIET_CALLS or self._frozen >= MAX_REFREEZES:
            return False  # usual, and no lock
        return self._lock.run(lambda: self._take(quiet))

    def _take(self, quiet: Quiet) -> bool:
        times = self._frozen
        if quiet.frozen or times >= MAX_REFREEZES or quiet.calls < QUIET_CALLS * 4**times:
            return False
        quiet.frozen = True
        self._frozen += 1
        return True

    def give_up(self) -> None:
        """Freezing failed, and would again."""
        self._frozen = MAX_REFREEZES


class Budget:
    """Bounds the time that goes into building anew: a build begins once weights have settled, and
    only while earlier ones took at most :data:`SHARE` of the time since the first. So a change of
    weights after a long service is answered by a build at once, and a loop that trains and
    evaluates is held up by none: builds run beside the calls, one at a time for each graph.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.monotonic()
        self._spent = 0.0
        self._builds: Quiet | None = None
        tell_of_forks(self)

    def take(self, quiet: Quiet) -> bool:
        """Whether to build for that state now; then :meth:`build` is to follow."""
        if quiet.frozen or quiet.calls < QUIET_CALLS or self._builds is not None:
            return False  # usual, and no lock
        return self._lock.run(lambda: self._take(quiet))

    def _take(self, quiet: Quiet) -> bool:
        allowed = SHARE * (time.monotonic() - self._began)
        if quiet.frozen or self._builds is not None or self._spent > allowed:
            return False
        quiet.frozen, self._builds = True, quiet
        return True

    def forked(self) -> None:
        """Called in a child: the thread that builds is gone there."""
        if self._builds is not None:
            self._builds.frozen, self._builds = False, None

    def build(self, work: Callable[[], object]) -> None:
        """Do ``work`` in a thread of its own, and count its time."""

        def run() -> None:
            start = time.monotonic()
            try:
                with torch.no_grad():
                    work()
            except Exception as error:
                log.warning("bnfx: building anew failed, PyTorch runs the graph: %r", error)
            finally:
                self._spent += time.monotonic() - start
                self._builds = None

        try:
            # No daemon: an engine that is building must not lose its interpreter.
            threading.Thread(target=run, name=THREAD_NAME).start()
        except RuntimeError as error:  # no more threads, or Python is ending
            self._builds = None
            log.warning("bnfx: no thread to build in, PyTorch runs the graph: %r", error)
