"""Waits for engines that are being built anew beside the calls."""

from __future__ import annotations

import threading

from bnfx.weights import freezing


def join_builds() -> None:
    """Return when all are through."""
    for thread in threading.enumerate():
        if thread.name == freezing.THREAD_NAME:
            thread.join()
