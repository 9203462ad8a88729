"""Locks that neither a fork nor an interrupt leaves taken, and the one that compilers share."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch.utils._python_dispatch import _disable_current_modes

T = TypeVar("T")


class Lock:
    """A lock for one piece of work at a time; the thread that has it may take it again.

    In a forked child it is free, unless the thread that forked had it: the others are gone, and
    would never give it back. What it guards must therefore be whole at every moment: published by
    one assignment, never changed in place.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        tell_of_forks(self)

    def run(self, work: Callable[[], T]) -> T:
        """``work()``, while no other thread runs anything under this lock."""
        lock: Any = self._lock
        had = lock._is_owned()
        try:
            with lock:
                return work()
        except BaseException:
            if lock._is_owned() and not had:  # interrupted between the work and the release
                lock.release()
            raise

    def forked(self) -> None:
        """Called in a child, where only the thread that forked is left."""
        lock: Any = self._lock
        if not lock._is_owned():
            self._lock = threading.RLock()


class Forked(Protocol):
    """What has to know of a fork."""

    def forked(self) -> None:
        """Called in a child, where only the thread that forked is left."""


_ALL: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_of_forks(each: Forked) -> None:
    """Have ``each`` told in every child, for as long as it is alive."""
    _ALL.add(each)


_own_compile_lock = threading.RLock()


def _compile_lock() -> Any:
    """The lock that Dynamo holds while it compiles; one of bnfx's own where torch has moved it."""
    convert_frame = sys.modules.get("torch._dynamo.convert_frame")
    return getattr(convert_frame, "compile_lock", None) or _own_compile_lock


@contextmanager
def compiling() -> Iterator[None]:
    """Compile alone in this process, Dynamo included, and out of the caller's dispatch modes.

    Lock order: this one first, then a :class:`Lock`. Whoever holds a :class:`Lock` never compiles.
    """
    import torch._dynamo.convert_frame  # noqa: F401  (so that its lock is there)

    with _compile_lock(), _disable_current_modes():
        yield


def _after_fork_in_child() -> None:
    for each in list(_ALL):
        each.forked()
    shared = _compile_lock()
    if hasattr(shared, "_at_fork_reinit") and not shared._is_owned():
        shared._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
