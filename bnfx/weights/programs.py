"""The forms of one captured graph, each right for some numbers of its parameters.

Where the numbers at hand must not be folded as they were (a statistic became NaN, a scale that
had to be positive is not), another form of the graph is written and compiled, a bounded number of
times.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Inner
from bnfx.passes.algebra import Source
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.weights.arguments import Arguments
from bnfx.weights.body import Program
from bnfx.weights.changes.snapshot import Numbers

log = logging.getLogger("bnfx")

# Forms of one graph that are compiled: as it was, and where numbers forbid that.
MAX_PROGRAMS = 3


class Programs:
    """All forms of one captured graph.

    Args:
        original: the captured graph.
        first: the form that it was rewritten to when it was captured.
        arguments: of the captured graph.
        inner: the inner compiler.
        refold: rewrites the graph anew for other inputs of the same shapes, never by signs.

    Attributes:
        packs: whether forms that are yet to come take packed weights.
        watched: the positions of the parameters that any form reads. More of them after
            :meth:`fill` wrote a form that reads others.
        watched_of: those of the arguments of a call.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        first: Rewritten,
        arguments: Arguments,
        inner: Inner,
        refold: Callable[[GraphInputs], Rewritten],
    ) -> None:
        self.packs = False
        self.original = Program(original, (), None, arguments, inner, packs=False)
        self._arguments = arguments
        self._inner = inner
        self._refold = refold
        self._programs: tuple[Program, ...] = (self._program(first),)
        self.watched = self._read_by(first)

    @property
    def watched(self) -> tuple[int, ...]:
        return self._watched

    @watched.setter
    def watched(self, positions: tuple[int, ...]) -> None:
        self._watched = positions
        self.watched_of = _picker(positions)

    @property
    def first(self) -> Program:
        return self._programs[0]

    def watch_all(self) -> None:
        """Watch every parameter: bodies hold what was not folded, too."""
        self.watched = tuple(self._arguments.parameters.values())

    def fill(
        self, args: Sequence[Any], numbers: Numbers
    ) -> tuple[Program, list[torch.Tensor]] | None:
        """The form that is right for these numbers, and what its slots hold.

        ``None`` where a form was written that reads more than ``numbers`` vouches for.

        Args:
            args: what the numbers are of.
        """
        for program in self._programs:
            weights = program.fill(numbers)
            if weights is not None:
                return program, weights
        rewritten = self._rewritten_for(args)
        if rewritten is None:
            log.warning("bnfx: the new parameters cannot be folded; the original graph is used")
            return self.original, []
        known = [program for program in self._programs if program.is_form_of(rewritten)]
        program = known[0] if known else self._program(rewritten)
        program.recipe = rewritten.recipe
        self.watched = tuple(dict.fromkeys((*self.watched, *self._read_by(rewritten))))
        if not known:
            self._programs = (*self._programs, program)
        if not numbers.watched.issuperset(self.watched):
            return None
        weights = program.fill(numbers)
        return (self.original, []) if weights is None else (program, weights)

    def _program(self, rewritten: Rewritten) -> Program:
        return Program(
            rewritten.module,
            rewritten.slots,
            rewritten.recipe,
            self._arguments,
            self._inner,
            self.packs,
        )

    def _rewritten_for(self, args: Sequence[Any]) -> Rewritten | None:
        """Another form of the graph, if one more may be compiled and anything folds in it."""
        if len(self._programs) == MAX_PROGRAMS:
            return None
        rewritten = self._refold(self._arguments.inputs(args))
        return rewritten if rewritten.recipe is not None else None

    def _read_by(self, rewritten: Rewritten) -> tuple[int, ...]:
        """The parameters that its slots and its conditions read; all, where that is not known."""
        parameters = self._arguments.parameters
        if rewritten.recipe is None:
            return tuple(parameters.values())
        names = dict.fromkeys(source.name for source in _sources(rewritten))
        return tuple(parameters[name] for name in names if name in parameters)


def _picker(positions: tuple[int, ...]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(positions) < 2:
        return lambda args: tuple(args[at] for at in positions)
    return operator.itemgetter(*positions)


def _sources(rewritten: Rewritten) -> Iterator[Source]:
    yield from rewritten.sources
    if rewritten.recipe is None:
        return
    conditions = rewritten.recipe.conditions
    for affine, _ in conditions.affines:
        yield from affine.sources()
    for linear, _ in conditions.operators:
        for expression in (linear.weight, linear.bias):
            if expression is not None:
                yield from expression.sources()
    for expression in conditions.nonnegative:
        yield from expression.sources()
