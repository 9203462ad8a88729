"""The numbers behind the symbols: what a fold would store, and whether that is sound."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from bnfx.passes.algebra import BroadcastAffine, Evaluator, Expression, LinearOperator, Source
from bnfx.passes.algebra.expressions.evaluate import Array
from bnfx.passes.algebra.expressions.extremes import (
    all_finite,
    largest_by_channel,
    largest_share,
    stores_plainly,
)
from bnfx.passes.algebra.expressions.stored_arrays import StoredArrays
from bnfx.passes.refusals import Code, Refusal

# Elements up to which exact values are kept: the vectors of a BatchNorm, which many folds share.
SMALL = 4096
_Storable = tuple[LinearOperator, tuple[str, ...]]  # and the dtypes, the stored one first


@dataclass(frozen=True)
class Conditions:
    """What held for the numbers that a graph was rewritten with, and must hold for others.

    Args:
        affines: maps that were sound, and the dtype that each was to be stored in.
        operators: linear operators whose weights could be stored, and the dtypes.
        nonnegative: expressions that a route relied on to have no negative element.
    """

    affines: tuple[tuple[BroadcastAffine, str | None], ...]
    operators: tuple[_Storable, ...]
    nonnegative: tuple[Expression, ...]

    def hold(self, values: Values) -> bool:
        """Whether they hold for ``values``."""
        return not (
            any(any(values.refuse_affine(affine, dtype)) for affine, dtype in self.affines)
            or any(any(values.refuse_operator(*each)) for each in self.operators)
            or not all(map(values.is_nonnegative, self.nonnegative))
        )


class Values:
    """Evaluates the expressions of one graph and casts them once to the dtype that is stored.

    Args:
        read, dtype: see :class:`~bnfx.passes.algebra.Evaluator`.
        like: stands in for the sources of an expression that has none.
        signs: whether rewrites may depend on the signs of these numbers. Not where a graph was
            compiled without numbers: what is folded later must be the same graph.
        fixed: whether rules are asked again before the numbers change. If not, nothing is stored in
            float16, which a few steps of an optimizer may overflow.
        measured: whether :meth:`rounding` will be asked; to measure it costs as much as the rest.
    """

    def __init__(
        self,
        read: Callable[[Source], Array],
        like: Array,
        dtype: str = "float64",
        signs: bool = True,
        fixed: bool = True,
        measured: bool = True,
    ) -> None:
        self._fixed = fixed
        self._evaluators: dict[object, Evaluator] = {}
        self.measured = measured
        self._read = read
        self._like = like
        self.dtype = dtype
        self._signs = signs
        self._stored = StoredArrays()
        self._finite: set[Expression] = set()  # they read no source that holds NaN or infinity
        self._rounded: dict[tuple[Expression, str], float] = {}
        self._refused_affines: dict[tuple[BroadcastAffine, str | None], tuple[Refusal, ...]] = {}
        self._refused_operators: dict[_Storable, tuple[Refusal, ...]] = {}
        self._nonnegative: dict[Expression, bool] = {}

    def exact(self, expression: Expression) -> Array:
        """The value in the computing dtype."""
        source = expression.reads[0]
        like = self._like if source is None else self._read(source)
        where = device(like)
        if where not in self._evaluators:
            self._evaluators[where] = Evaluator(self._read, like, self.dtype, keeps=SMALL)
        with np.errstate(all="ignore"):  # what is not finite becomes a refusal, not a warning
            return self._evaluators[where](expression)

    def stored(self, expression: Expression, dtype: str) -> Array:
        """The value, evaluated in float64 and cast once to ``dtype``."""
        if (known := self._stored.get(expression, dtype)) is not None:
            return known
        return self._stored.add(expression, dtype, self._cast(self.exact(expression), dtype))

    def _cast(self, exact: Array, dtype: str) -> Array:
        xp = array_namespace(exact)
        with np.errstate(all="ignore"):
            return xp.astype(exact, getattr(xp, dtype))

    def refuse_affine(self, affine: BroadcastAffine, dtype: str | None = None) -> Iterator[Refusal]:
        """Reasons why the map cannot be trusted: NaN or infinite statistics, scale or shift; or
        stored in ``dtype``, if it would be.
        """
        key = (affine, dtype)
        if key not in self._refused_affines:  # each rule asks again
            self._refused_affines[key] = tuple(self._refuse_affine(affine, dtype))
        yield from self._refused_affines[key]

    def _refuse_affine(self, affine: BroadcastAffine, dtype: str | None) -> Iterator[Refusal]:
        for source in self._unsound_sources(affine):
            yield Refusal(Code.NON_FINITE, f"{source.name} holds NaN or infinity")
        for name, expression in (("scale", affine.scale), ("shift", affine.shift)):
            exact = self.exact(expression)
            if not all_finite(exact):
                yield Refusal(Code.NON_FINITE, f"its {name} is NaN or infinite")
            elif dtype is not None and not all_finite(self._cast(exact, dtype)):
                yield Refusal(Code.OVERFLOW, f"its {name} overflows {dtype}")

    def _unsound_sources(self, affine: BroadcastAffine) -> Iterator[Source]:
        """The parameters with NaN or infinity. A map that was merged of others has been looked at,
        but for the last of them.
        """
        seen: set[Expression] = set()
        stack, sound = [affine.shift, affine.scale], True
        while stack:
            expression = stack.pop()
            if expression in seen or expression in self._finite:
                continue
            seen.add(expression)
            match expression:
                case Source(bases=()) if not all_finite(self._read(expression)):
                    sound = False
                    yield expression
            stack.extend(reversed(expression.children))
        if sound:
            self._finite |= seen

    def is_nonnegative(self, expression: Expression) -> bool:
        """Whether no element is negative (or NaN), and rewrites may depend on that."""
        if not self._signs:
            return False
        if expression not in self._nonnegative:
            exact = self.exact(expression)
            self._nonnegative[expression] = bool(array_namespace(exact).all(exact >= 0))
        return self._nonnegative[expression]

    def refuse_operator(self, operator: LinearOperator, dtypes: Iterable[str]) -> Iterator[Refusal]:
        """Reasons why the operator's weights cannot be stored in, or computed with, ``dtypes``.

        The largest weight of each output and input channel tells: NaN and infinity show in it,
        rounding is monotone, and rounding to nearest moves a weight by more than one unit of the
        largest only if that is subnormal. So the weights, of which there are many, are read once.
        """
        key = (operator, tuple(dict.fromkeys(dtypes)))
        if key not in self._refused_operators:
            self._refused_operators[key] = tuple(self._refuse_operator(*key))
        yield from self._refused_operators[key]

    def _refuse_operator(
        self, operator: LinearOperator, dtypes: tuple[str, ...]
    ) -> Iterator[Refusal]:
        if not self._fixed and "float16" in dtypes:
            yield Refusal(Code.OVERFLOW, "its weights may come to overflow float16")
            return
        for name, expression in (("weight", operator.weight), ("bias", operator.bias)):
            if expression is None:
                continue
            exact = self.exact(expression)
            xp: Any = array_namespace(exact)
            if 0 in exact.shape:
                continue
            stored = self._stored.add(expression, dtypes[0], self._cast(exact, dtypes[0]))
            if not self.measured and stores_plainly(exact, stored, dtypes):
                continue
            sizes = xp.abs(exact)
            largest = [sizes]
            if name == "weight":
                largest = [
                    largest_by_channel(v) for v in (operator.rows(sizes), operator.columns(sizes))
                ]
            if not all_finite(largest[0]):
                yield Refusal(Code.NON_FINITE, f"the folded {name} would be NaN or infinite")
                continue
            if dtypes[0] != self.dtype:
                moved = xp.abs(xp.astype(stored, exact.dtype) - exact)
                moved = moved if name == "bias" else largest_by_channel(operator.rows(moved))
                self._rounded[expression, dtypes[0]] = largest_share(moved, largest[0])
            for dtype in dtypes:
                if not all_finite(self._cast(largest[0], dtype)):
                    yield Refusal(Code.OVERFLOW, f"the folded {name} overflows {dtype}")
                smallest = float(xp.finfo(getattr(xp, dtype)).smallest_normal)
                if name == "weight" and any(
                    xp.any((some > 0) & (some < smallest)) for some in largest
                ):
                    yield Refusal(
                        Code.UNDERFLOW, f"a channel of the folded weight underflows {dtype}"
                    )

    def put(self, place: object, operator: LinearOperator | None) -> None:
        """Take note that ``operator``, or none, stands at ``place`` from now on."""
        self._stored.put(place, () if operator is None else (operator.weight, operator.bias))

    def keep_only(self, expressions: Collection[Expression | None]) -> None:
        """Drop all numbers but what is stored of ``expressions``."""
        self._stored.keep_only(expressions)
        self._evaluators.clear()

    def conditions(self, stored: Collection[Expression]) -> Conditions:
        """What was asked so far and found to hold.

        Args:
            stored: what is kept. Operators on the way are left out: what is not finite shows there.
        """
        return Conditions(
            tuple(key for key, refused in self._refused_affines.items() if not refused),
            tuple(
                key
                for key, refused in self._refused_operators.items()
                if not refused and key[0].weight in stored
            ),
            tuple(expression for expression, holds in self._nonnegative.items() if holds),
        )

    def rounding(self, *expressions: Expression | None, dtype: str) -> float:
        """The largest rounding of a number that is stored in ``dtype``.

        ``max |stored - exact|`` relative to ``max |exact|``: of the weights of each channel that
        were looked at by :meth:`refuse_operator`, of each single element of anything else.
        """
        if dtype == self.dtype:
            return float(np.finfo(dtype).eps) / 2  # the arithmetic's own
        return max(self._rounding(e, dtype) for e in expressions if e is not None)

    def _rounding(self, expression: Expression, dtype: str) -> float:
        if 0 in expression.shape:
            return 0.0
        if (expression, dtype) not in self._rounded:
            exact = self.exact(expression)
            xp = array_namespace(exact)
            moved = xp.abs(xp.astype(self._cast(exact, dtype), exact.dtype) - exact)
            self._rounded[expression, dtype] = largest_share(moved, xp.abs(exact))
        return self._rounded[expression, dtype]
