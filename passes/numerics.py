"""The numbers behind the symbols: what a fold would store, and whether that is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from bnfx.passes.algebra import BroadcastAffine, Evaluator, Expression, LinearOperator, Source
from bnfx.passes.algebra.evaluate import Array
from bnfx.passes.refusals import Code, Refusal


class Values:
    """Evaluates the expressions of one graph and casts them once to the dtype that is stored.

    Args:
        read, dtype: see :class:`~bnfx.passes.algebra.Evaluator`.
        like: stands in for the sources of an expression that has none.
        signs: whether rewrites may depend on the signs of these numbers. Not where a graph was
            compiled without numbers: what is folded later must be the same graph.
    """

    def __init__(
        self,
        read: Callable[[Source], Array],
        like: Array,
        dtype: str = "float64",
        signs: bool = True,
    ) -> None:
        self._read = read
        self._like = like
        self._dtype = dtype
        self._signs = signs
        self._stored: dict[tuple[Expression, str], Array] = {}
        self._rounded: dict[tuple[Expression, str], float] = {}
        self._refused: dict[tuple[object, object], tuple[Refusal, ...]] = {}

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

    def refuse_affine(self, affine: BroadcastAffine, dtype: str | None = None) -> Iterator[Refusal]:
        """Reasons why the map cannot be trusted: NaN or infinite statistics, scale or shift.

        Args:
            affine: the map.
            dtype: in which it would be stored, if it would.
        """
        key = (affine, dtype)
        if key not in self._refused:  # each rule asks again
            self._refused[key] = tuple(self._refuse_affine(affine, dtype))
        yield from self._refused[key]

    def _refuse_affine(self, affine: BroadcastAffine, dtype: str | None) -> Iterator[Refusal]:
        for source in affine.sources():
            if not _all_finite(self._read(source)):
                yield Refusal(Code.NON_FINITE, f"{source.name} holds NaN or infinity")
        for name, expression in (("scale", affine.scale), ("shift", affine.shift)):
            exact = self.exact(expression)
            if not _all_finite(exact):
                yield Refusal(Code.NON_FINITE, f"its {name} is NaN or infinite")
            elif dtype is not None and not _all_finite(self._cast(exact, dtype)):
                yield Refusal(Code.OVERFLOW, f"its {name} overflows {dtype}")

    def is_nonnegative(self, expression: Expression) -> bool:
        """Whether no element is negative (or NaN), and rewrites may depend on that."""
        if not self._signs:
            return False
        exact = self.exact(expression)
        return bool(array_namespace(exact).all(exact >= 0))

    def refuse_operator(self, operator: LinearOperator, dtypes: Iterable[str]) -> Iterator[Refusal]:
        """Reasons why the operator's weights cannot be stored in, or computed with, ``dtypes``.

        The largest weight of each output and input channel tells: NaN and infinity show in it,
        rounding is monotone, and rounding to nearest moves a weight by more than one unit of the
        largest only if that is subnormal. So the weights, of which there are many, are read once.
        """
        key = (operator, tuple(dict.fromkeys(dtypes)))
        if key not in self._refused:
            self._refused[key] = tuple(self._refuse_operator(*key))
        yield from self._refused[key]

    def _refuse_operator(
        self, operator: LinearOperator, dtypes: tuple[str, ...]
    ) -> Iterator[Refusal]:
        for name, expression in (("weight", operator.weight), ("bias", operator.bias)):
            if expression is None:
                continue
            exact = self.exact(expression)
            xp: Any = array_namespace(exact)
            if 0 in exact.shape:
                continue
            sizes = xp.abs(exact)
            largest = [sizes]
            if name == "weight":
                largest = [_by_channel(v) for v in (operator.rows(sizes), operator.columns(sizes))]
            if not all(map(_all_finite, largest)):
                yield Refusal(Code.NON_FINITE, f"the folded {name} would be NaN or infinite")
                continue
            stored = self._stored[expression, dtypes[0]] = self._cast(exact, dtypes[0])
            if dtypes[0] != self._dtype:
                moved = xp.abs(xp.astype(stored, exact.dtype) - exact)
                moved = moved if name == "bias" else _by_channel(operator.rows(moved))
                self._rounded[expression, dtypes[0]] = _share(moved, largest[0])
            for dtype in dtypes:
                if not _all_finite(self._cast(largest[0], dtype)):
                    yield Refusal(Code.OVERFLOW, f"the folded {name} overflows {dtype}")
                smallest = float(xp.finfo(getattr(xp, dtype)).smallest_normal)
                if name == "weight" and any(
                    xp.any((some > 0) & (some < smallest)) for some in largest
                ):
                    yield Refusal(
                        Code.UNDERFLOW, f"a channel of the folded weight underflows {dtype}"
                    )

    def rounding(self, *expressions: Expression | None, dtype: str) -> float:
        """The largest rounding of a number that is stored in ``dtype``.

        ``max |stored - exact|`` relative to ``max |exact|``: of the weights of each channel that
        were looked at by :meth:`refuse_operator`, of each single element of anything else.
        """
        if dtype == self._dtype:
            return float(np.finfo(dtype).eps) / 2  # the arithmetic's own
        return max(self._rounding(e, dtype) for e in expressions if e is not None)

    def _rounding(self, expression: Expression, dtype: str) -> float:
        if 0 in expression.shape:
            return 0.0
        if (expression, dtype) not in self._rounded:
            exact = self.exact(expression)
            xp = array_namespace(exact)
            moved = xp.abs(xp.astype(self._cast(exact, dtype), exact.dtype) - exact)
            self._rounded[expression, dtype] = _share(moved, xp.abs(exact))
        return self._rounded[expression, dtype]


def _by_channel(rows: Array) -> Array:
    """The largest of each channel; NaN if there is one."""
    xp: Any = array_namespace(rows)
    while rows.ndim > 1:  # one axis after the other: torch is many times slower at two of a view
        rows = xp.max(rows, axis=1)
    return rows


def _share(moved: Array, largest: Array) -> float:
    xp = array_namespace(moved)
    share = moved / xp.where(largest > 0, largest, xp.ones_like(largest))
    return float(xp.max(xp.reshape(share, (-1,))))


def _all_finite(array: Array) -> bool:
    xp = array_namespace(array)
    return bool(xp.all(xp.isfinite(array)))
