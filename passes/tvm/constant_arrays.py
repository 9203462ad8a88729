"""The constants of one function as NumPy arrays, and the sources that stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bnfx.passes.algebra import Source
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.values import Values

# What NumPy computes with; a bfloat16 is none of its numbers.
NUMPY_FLOATS = frozenset({"float64", "float32", "float16"})


class Arrays:
    """Arrays by the name of their source."""

    def __init__(self) -> None:
        self._named: dict[str, npt.NDArray[Any]] = {}

    def source(self, array: npt.NDArray[Any] | None, kind: str, name: str) -> Source | Refusal:
        """A new source that stands for ``array``, or why there is none.

        Args:
            array: its numbers, if NumPy has them.
            kind: what its dtype is called.
            name: of the source, by whose last part a refusal calls it; numbered if it is taken.
        """
        if array is None or str(array.dtype) not in NUMPY_FLOATS:
            what = name.rpartition(".")[2]
            return Refusal(Code.UNSUPPORTED_DTYPE, f"its {what} is {kind}, not real")
        unique = name if name not in self._named else f"{name} ({len(self._named)})"
        self._named[unique] = array
        return Source(unique, array.shape, str(array.dtype))

    def values(self) -> Values | None:
        """The numbers behind the sources, or ``None`` if there are none."""
        if not self._named:
            return None
        return Values(lambda source: self._named[source.name], np.zeros((), "float64"))
