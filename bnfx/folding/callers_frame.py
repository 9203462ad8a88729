"""Whose line a warning is about."""

from __future__ import annotations

import sys
import warnings
from types import FrameType


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line of code outside bnfx."""
    level, frame = 1, sys._getframe(0)
    above: FrameType | None = frame
    while above is not None and str(above.f_globals.get("__name__", "")).split(".")[0] == "bnfx":
        level, above = level + 1, above.f_back
    warnings.warn(message, category, stacklevel=level)
