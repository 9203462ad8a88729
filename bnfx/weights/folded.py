"""Folded weights, one set for each set of parameters that a compiled graph is called with."""

from __future__ import annotations

import atexit
import gc
import sys
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnfx.weights.body import Program
from bnfx.weights.changes.snapshot import Moment
from bnfx.weights.freezing import Quiet
from bnfx.weights.ways import Way

# Sets of parameters whose folded weights are kept. More instances of one class than that, called in
# turn, are folded again each time: slow, and right.
MAX_PARAMETER_SETS = 8


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


class FoldedSets:
    """The states of one graph, of different sets of parameters, the latest first.

    An object of its own, as Dynamo copies the attributes of what it is to call, and keeps them.
    """

    def __init__(self) -> None:
        self.states: tuple[FoldedState, ...] = ()
        _ALL.add(self)

    def of(self, tensors: Sequence[Any], scalars: tuple[float, ...]) -> FoldedState | None:
        """The state of this very set of parameters, if there is one."""
        for state in self.states:
            if state.moment.is_of(tensors, scalars):
                return state
        return None

    def publish(self, state: FoldedState) -> None:
        """Let this state answer calls from now on, in place of the one of its set."""
        if not state.moment.settled:
            return  # what no sign would show may have been under way: it serves one call
        others = [other for other in self.states if not other.moment.is_like(state.moment)]
        self.states = (state, *_still_reachable(others)[: MAX_PARAMETER_SETS - 1])

    def let_go(self) -> None:
        """Forget sets that nobody can call with. One that is forgotten too early, as another thread
        publishes, is folded again.
        """
        reachable = _still_reachable(self.states)
        if len(reachable) < len(self.states):
            self.states = tuple(reachable)


_ALL: weakref.WeakSet[FoldedSets] = weakref.WeakSet()


def _after_collection(phase: str, info: Mapping[str, int]) -> None:
    """Dynamo keeps what it compiled for a model that is gone; its weights need not be kept."""
    if phase == "stop" and info["generation"] == 2:
        for sets in list(_ALL):
            sets.let_go()


gc.callbacks.append(_after_collection)
atexit.register(gc.callbacks.remove, _after_collection)


def _still_reachable(states: Sequence[FoldedState]) -> list[FoldedState]:
    """Those whose parameters somebody else holds: the others can't be called with any more, and
    would keep them alive.
    """
    sets = [state.moment.snapshot.tensors for state in states]
    ours = Counter(id(tensor) for tensors in sets for tensor in tensors)
    return [
        state
        for state, tensors in zip(states, sets, strict=True)
        if all(
            count > ours[id(tensor)]
            for tensor, count in zip(tensors, _references(tensors), strict=True)
        )
    ]


def _references(objects: tuple[Any, ...]) -> list[int]:
    """How many references there are to each, this tuple's included."""
    return [sys.getrefcount(each) - _UNCOUNTED for each in objects]


# The references that asking makes, which depend on the version of Python.
_UNCOUNTED = 0
_UNCOUNTED = _references((object(),))[0] - 1
