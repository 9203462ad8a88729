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
        self._finite: dict[Source, bool] = {}

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
        for source in affine.sources():
            if source not in self._finite:
                self._finite[source] = _all_finite(self._read(source))
            if not self._finite[source]:
                yield Refusal(Code.NON_FINITE, f"{source.name} holds NaN or infinity")
        for name, expression in (("scale", affine.scale), ("shift", affine.shift)):
            exact = self.exact(expression)
            if not _all_finite(exact):
                yield Refusal(Code.NON_FINITE, f"the BatchNorm's {name} is NaN or infinite")
            elif dtype is not None and not _all_finite(self._cast(exact, dtype)):
                yield Refusal(Code.OVERFLOW, f"the BatchNorm's {name} overflows {dtype}")

    def refuse_operator(self, operator: LinearOperator, dtypes: Iterable[str]) -> Iterator[Refusal]:
        """Reasons why the operator's weights cannot be stored in, or computed with, ``dtypes``."""
        stored, *others = dict.fromkeys(dtypes)
        for name, expression in (("weight", operator.weight), ("bias", operator.bias)):
            if expression is None:
                continue
            exact = self.exact(expression)
            if not _all_finite(exact):
                yield Refusal(Code.NON_FINITE, f"the folded {name} would be NaN or infinite")
                continue
            for dtype in (stored, *others):
                cast = self._cast(exact, dtype)
                if dtype == stored:
                    self._stored[expression, dtype] = cast
                if not _all_finite(cast):
                    yield Refusal(Code.OVERFLOW, f"the folded {name} overflows {dtype}")
                elif name == "weight" and _loses_a_channel(operator, exact, cast):
                    yield Refusal(
                        Code.UNDERFLOW, f"a channel of the folded weight underflows {dtype}"
                    )


def _all_finite(array: Array) -> bool:
    xp = array_namespace(array)
    return bool(xp.all(xp.isfinite(array)))


def _loses_a_channel(operator: LinearOperator, exact: Array, cast: Array) -> bool:
    """Whether rounding moves a channel by more than one unit of its largest weight.

    Rounding to nearest moves a normal number by at most half a unit, ``eps/2`` of it; only
    subnormals move by more.
    """
    xp: Any = array_namespace(exact)
    eps = float(xp.finfo(cast.dtype).eps)
    rows = operator.rows(exact)
    if rows.shape[1] == 0:
        return False
    error = xp.max(xp.abs(operator.rows(xp.astype(cast, exact.dtype)) - rows), axis=1)
    return bool(xp.any(error > eps * xp.max(xp.abs(rows), axis=1)))
