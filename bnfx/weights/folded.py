"""Folded weights, one set for each set of parameters that a compiled graph is called with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bnfx.weights.body import Program
from bnfx.weights.snapshot import Moment
from bnfx.weights.ways import Way


@dataclass(eq=False)
class Quiet:
    """Calls since the last change. Threads may lose count, which delays a freeze by as many."""

    calls: int = 0


@dataclass(frozen=True, eq=False)
class FoldedState:
    """What was folded from one set of parameters, at one moment. It never changes: a change of the
    parameters makes another one, which takes its place when it is whole.

    Args:
        moment: of the parameters.
        program: the form of the graph that is right for their numbers.
        ways: to answer calls, the best first.
        frozen: whether the first holds constants.
        quiet: calls since the last change.
    """

    moment: Moment
    program: Program
    ways: tuple[Way, ...]
    frozen: bool = False
    quiet: Quiet = field(default_factory=Quiet)

    def way(self, args: Sequence[Any]) -> Way | None:
        """What answers a call with these arguments; ``None`` if nothing was compiled for such."""
        for way in self.ways:
            if way.fits(args):
                return way
        return None


def same_set(
    states: Sequence[FoldedState], tensors: Sequence[Any], scalars: tuple[float, ...]
) -> FoldedState | None:
    """The state of this very set of parameters, if there is one."""
    for state in states:
        if state.moment.is_of(tensors, scalars):
            return state
    return None
