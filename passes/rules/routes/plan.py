"""Who absorbs a map that goes back, where joins leave a choice.

A sum needs its scale on both sides and its shift on either; a product its scale on either; all else
needs all of its inputs. The first input that can take it does. Where branches come together in one
value, the choice for one may contradict the choice for the other; then everything that absorbs
takes the same share of the shift, if that adds up: for ``x + pool(x)``, half of it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bnfx.passes.graph import Add, Affine, Concat, Linear, Node, Product
from bnfx.passes.refusals import Refusal
from bnfx.passes.rules.routes.walk_back import Choice, Survey


@dataclass(frozen=True)
class Plan:
    """What a survey without a choice comes to.

    Args:
        refusals: why the map cannot go back; none if it can.
        choice: for each join that has one; empty if none has.
    """

    refusals: tuple[Refusal, ...]
    choice: Choice

    @staticmethod
    def of(survey: Survey) -> Plan:
        affine = survey.affine
        stuck = [value for value, reasons in survey.reasons.items() if reasons.stuck]
        still = [value for value, reasons in survey.reasons.items() if reasons.still]
        scale: dict[Node, bool] = {}
        shift: dict[Node, bool] = {}
        if not affine.is_shift or affine.is_scale:
            scale = _able(survey, set(stuck), Product)
        if not affine.is_scale:
            # What can take neither is told of as far as scales go, unless there is none.
            closed = {*still, *stuck} if affine.is_shift else set(still)
            shift = _able(survey, closed, Add)
        blamed = {*_blamed(survey, scale), *_blamed(survey, shift)}
        refusals = [r for v in survey.depth_first() if v in blamed for r in survey.refusals_of(v)]
        if refusals:
            return Plan(tuple(refusals), {})
        choice: dict[Node, Node] = {}
        for value in survey.order:
            # The way may leave out a product that takes no scale, beside another factor.
            if isinstance(value.role, Product) and scale.get(value):
                choice[value] = next(v for v in survey.sources[value] if scale[v])
            elif isinstance(value.role, Add) and shift.get(value):
                choice[value] = next(v for v in _summands(value) if shift[v])
        return Plan((), choice)


def _able(survey: Survey, closed: Collection[Node], either: type) -> dict[Node, bool]:
    """Which values can take a part of the map, if one input is enough for joins of type ``either``.

    Args:
        closed: values that cannot, as they are.
    """
    able: dict[Node, bool] = {}
    for value in reversed(survey.order):
        sources = survey.sources[value]
        if not sources:
            able[value] = value not in closed
            continue
        if either is Add and isinstance(value.role, Add):
            sources = _summands(value)
        picked = any if isinstance(value.role, either) else all
        able[value] = value not in closed and picked(able[source] for source in sources)
    return able


def _summands(value: Node) -> list[Node]:
    """The inputs of a sum of which it is not zero times one."""
    assert isinstance(value.role, Add)
    return [v for v, factor in zip(value.inputs, value.role.factors, strict=True) if factor]


def _blamed(survey: Survey, able: dict[Node, bool]) -> Iterator[Node]:
    """The values for want of which the first one is not able."""
    wanted = {survey.order[0]}
    for value in survey.order:
        if value in wanted and not able.get(value, True):
            yield value
            wanted.update(survey.sources[value])


def even_share(survey: Survey) -> float | None:
    """How much of the shift each value that absorbs must take, so that it comes out once.

    ``None`` if no share does: where a branch takes no shift, or the parts of a concatenation would
    get unlike shares.
    """
    gains: dict[Node, float] = {}
    for value in reversed(survey.order):
        if value in survey.reasons or isinstance(value.role, Product):
            return None
        sources = survey.sources[value]
        match value.role:
            case Linear() | Affine():
                gain = 1.0
            case Add(factors):
                gain = sum(f * gains[v] for v, f in zip(sources, factors, strict=True))
            case Concat() if len({gains[v] for v in sources}) > 1:
                return None
            case _:
                gain = gains[sources[0]]
        gains[value] = gain
    whole = abs(gains[survey.order[0]])
    if not sys.float_info.min <= whole <= 1 / sys.float_info.min:  # or NaN
        return None
    return 1.0 / gains[survey.order[0]]
