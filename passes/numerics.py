"""The numbers behind the symbols: what a fold would store, and whether that is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from bnfx.passes.algebra import ChannelAffine, Evaluator, Expression, LinearOperator, Source
from bnfx.passes.algebra.evaluate import Array
from bnfx.passes.refusals import Code, Refusal


class Values:
    """Evaluates the expressions of one graph and casts them once to the dtype that is stored.

    Args:
        read, dtype: see :class:`~bnfx.passes.algebra.Evaluator`.
        like: stands in for the sources of an expression that has none.
    """

    def __init__(
        self, read: Callable[[Source], Array], like: Array, dtype: str = "float64"
    ) -> None:
        self._read = read
        self._like = like
        self._dtype = dtype
        self._stored: dict[tuple[Expression, str], Array] = {}
        self._refused: dict[tuple[ChannelAffine, str | None], tuple[Refusal, ...]] = {}

    def exact(self, expression: Expression) -> Array:
        """The value in the computing dtype. Not kept: it is twice the size of what is stored."""
        source = next(expression.sources(), None)
        like = self._like if source is None else self._read(source)
        with np.errstate(all="ignore"):  # what is not finite becomes a refusal, not a warning
            return Evaluator(self._read, like, self._dtype)(expression)

    def stored(self, expression: Expression, dtype: str) -> Array:
        """The value, evaluated in float64 and cast once to ``dtype``."""
        key = (expression, dtype)
        if key not in self._stored:
            self._stored[key] = self._cast(self.exact(expression), dtype)
        return self._stored[key]

    def _cast(self, exact: Array, dtype: str) -> Array:
        xp = array_namespace(exact)
        with np.errstate(all="ignore"):
            return xp.astype(exact, getattr(xp, dtype))

    def refuse_affine(self, affine: ChannelAffine, dtype: str | None = None) -> Iterator[Refusal]:
        """Reasons why the map cannot be trusted: NaN or infinite statistics, scale or shift.

        Args:
            affine: the map.
            dtype: in which it would be stored, if it would.
        """
        key = (affine, dtype)
        if key not in self._refused:  # each rule asks again
            self._refused[key] = tuple(self._refuse_affine(affine, dtype))
        yield from self._refused[key]

    def _refuse_affine(self, affine: ChannelAffine, dtype: str | None) -> Iterator[Refusal]:
        for source in affine.sources():
            if not _all_finite(self._read(source)):
                yield Refusal(Code.NON_FINITE, f"{source.name} holds NaN or infinity")
        for name, expression in (("scale", affine.scale), ("shift", affine.shift)):
            exact = self.exact(expression)
            if not _all_finite(exact):
                yield Refusal(Code.NON_FINITE, f"the BatchNorm's {name} is NaN or infinite")
            elif dtype is not None and not _all_finite(self._cast(exact, dtype)):
                yield Refusal(Code.OVERFLOW, f"the BatchNorm's {name} overflows {dtype}")

    def refuse_operator(self, operator: LinearOperator, dtypes: Iterable[str]) -> Iterator[Refusal]:
        """Reasons why the operator's weights cannot be stored in, or computed with, ``dtypes``.

        The largest weight of each channel tells: NaN and infinity show in it, rounding is monotone,
        and rounding to nearest moves a weight by more than one unit of the largest only if that is
        subnormal. So the weights, of which there are many, are read once.
        """
        stored, *others = dict.fromkeys(dtypes)
        for name, expression in (("weight", operator.weight), ("bias", operator.bias)):
            if expression is None:
                continue
            exact = self.exact(expression)
            xp: Any = array_namespace(exact)
            rows = operator.rows(exact) if name == "weight" else xp.reshape(exact, (-1, 1))
            if rows.shape[1] == 0:
                continue
            largest = xp.max(xp.abs(rows), axis=1)  # NaN if there is one
            if not _all_finite(largest):
                yield Refusal(Code.NON_FINITE, f"the folded {name} would be NaN or infinite")
                continue
            self._stored[expression, stored] = self._cast(exact, stored)
            for dtype in (stored, *others):
                if not _all_finite(self._cast(largest, dtype)):
                    yield Refusal(Code.OVERFLOW, f"the folded {name} overflows {dtype}")
                smallest = float(xp.finfo(getattr(xp, dtype)).smallest_normal)
                if name == "weight" and xp.any((largest > 0) & (largest < smallest)):
                    yield Refusal(
                        Code.UNDERFLOW, f"a channel of the folded weight underflows {dtype}"
                    )


def _all_finite(array: Array) -> bool:
    xp = array_namespace(array)
    return bool(xp.all(xp.isfinite(array)))
