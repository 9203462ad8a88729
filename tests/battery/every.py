"""All cases of the battery."""

from __future__ import annotations

from battery import arithmetic, conv, merge, move, next_linear, shapes
from battery.conv import Case

CASES: list[Case] = [
    *conv.CASES,
    *next_linear.CASES,
    *arithmetic.CASES,
    *move.CASES,
    *merge.CASES,
    *shapes.CASES,
]
