"""The forms of one captured graph, each right for some numbers of its parameters.

Where the numbers at hand must not be folded as they were (a statistic became NaN, a scale that
had to be positive is not), another form of the graph is written and compiled, a bounded number of
times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bnfx.inner.base import Inner
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.weights.arguments import Arguments
from bnfx.weights.body import Program

log = logging.getLogger("bnfx")

# Forms of one graph that are compiled: as it was, and where numbers forbid that.
MAX_PROGRAMS = 3


class Programs:
    """All forms of one captured graph.

    Args:
        first: the form that it was rewritten to when it was captured.
        arguments: of the captured graph.
        inner: the inner compiler.
        refold: rewrites the graph anew for other inputs of the same shapes, never by signs.

    Attributes:
        packs: whether forms that are yet to come take packed weights.
    """

    def __init__(
        self,
        first: Rewritten,
        arguments: Arguments,
        inner: Inner,
        refold: Callable[[GraphInputs], Rewritten],
    ) -> None:
        self.packs = False
        self._arguments = arguments
        self._inner = inner
        self._refold = refold
        self._programs = [self._program(first)]

    @property
    def first(self) -> Program:
        return self._programs[0]

    def fill(self, args: Sequence[Any]) -> tuple[Program | None, list[torch.Tensor]]:
        """The form that is right for these numbers, and what its slots hold.

        ``None`` where no form is, so that only the original graph will do.
        """
        named = self._arguments.tensors(args)
        for program in self._programs:
            if program.recipe is None:
                continue
            weights = program.recipe.fill(named)
            if weights is not None:
                return program, weights
        rewritten = self._rewritten_for(args)
        if rewritten is None:
            log.warning("bnfx: the new parameters cannot be folded; the original graph is used")
            return None, []
        known = [program for program in self._programs if program.is_form_of(rewritten)]
        program = known[0] if known else self._program(rewritten)
        program.recipe = rewritten.recipe
        if not known:
            self._programs.append(program)
        weights = rewritten.evaluate()
        assert weights is not None, "who has a recipe has numbers"
        return program, weights

    def _program(self, rewritten: Rewritten) -> Program:
        return Program(rewritten, self._arguments, self._inner, self.packs)

    def _rewritten_for(self, args: Sequence[Any]) -> Rewritten | None:
        """Another form of the graph, if one more may be compiled and anything folds in it."""
        if len(self._programs) == MAX_PROGRAMS:
            return None
        rewritten = self._refold(self._arguments.inputs(args))
        return rewritten if rewritten.slots and rewritten.recipe is not None else None
