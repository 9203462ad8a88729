"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# A frame of these is not the user's: they call us, and we call them.
_OURS = frozenset({"bnfx", "torch", "tvm", "contextlib", "functools"})


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the innermost frame of a module that is neither ours nor a compiler's."""
    warnings.warn(message, category, stacklevel=_level())


def _level() -> int:
    frame = sys._getframe(2)  # of who warns, which is level 2 as seen from warn
    level = 2
    while frame.f_back is not None:
        if is_users(frame):
            return level
        frame, level = frame.f_back, level + 1
    return level


def is_users(frame: FrameType) -> bool:
    """Whether a frame is the user's code, neither ours nor a compiler's.

    Code that torch writes at run time belongs to no module.
    """
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] not in _OURS
