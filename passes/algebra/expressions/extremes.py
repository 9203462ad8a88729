"""How large the elements of arrays are, on any array library of the array-API standard."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from array_api_compat import array_namespace

from bnfx.passes.algebra.expressions.evaluate import Array


def stores_plainly(exact: Array, stored: Array, dtypes: Iterable[str]) -> bool:
    """Whether each element of ``exact`` is zero, or normal in every dtype: quick to see, and usual.

    Args:
        exact: not empty, in the computing dtype.
        stored: the same in the narrower dtype that is stored.
        dtypes: names of real floating dtypes.
    """
    xp: Any = array_namespace(exact)
    sizes = xp.abs(stored)
    smallest, largest = _extremes(sizes)
    if smallest == 0 and not xp.any((stored == 0) & (exact != 0)):
        smallest = float(xp.min(xp.where(stored == 0, math.inf, sizes)))
    limits = [xp.finfo(getattr(xp, dtype)) for dtype in dtypes]
    return all(bool(limit.smallest_normal <= smallest and largest <= limit.max) for limit in limits)


def _extremes(array: Array) -> tuple[float, float]:
    """The smallest and the largest element; NaN both, if there is one."""
    xp: Any = array_namespace(array)
    if hasattr(xp, "aminmax"):  # torch's own, of one pass, and several times faster than two
        smallest, largest = xp.aminmax(array)
        return float(smallest), float(largest)
    return float(xp.min(array)), float(xp.max(array))


def largest_by_channel(rows: Array) -> Array:
    """The largest of each channel; NaN if there is one."""
    xp: Any = array_namespace(rows)
    while rows.ndim > 1:  # one axis after the other: torch is many times slower at two of a view
        rows = xp.max(rows, axis=1)
    return rows


def largest_share(moved: Array, largest: Array) -> float:
    """The largest ``moved / largest``; ``moved`` itself where ``largest`` is zero."""
    xp = array_namespace(moved)
    share = moved / xp.where(largest > 0, largest, xp.ones_like(largest))
    return float(xp.max(xp.reshape(share, (-1,))))


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite."""
    xp = array_namespace(array)
    return bool(xp.all(xp.isfinite(array)))
