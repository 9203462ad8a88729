"""One form of a captured graph, and the bodies compiled from it: live, live and packed, frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import KEPT, Compiled, Inner
from bnfx.inner.late import LateInputs, captured_as, fresh
from bnfx.inner.locks import compiling
from bnfx.passes.fx.bodies.lower_bodies import text_of
from bnfx.passes.fx.dynamo import describe_slots
from bnfx.passes.fx.lowering.bind import bind
from bnfx.passes.fx.lowering.recipe import Recipe
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.weights.arguments import Arguments
from bnfx.weights.changes.snapshot import Numbers
from bnfx.weights.ways import Body, Fits, PackedBody, PlainBody, Way, always

log = logging.getLogger("bnfx")

# Bodies that are compiled late for one form of a graph, each for other sizes. PyTorch runs the
# graph for any more.
MAX_LATE_BODIES = 8


class Program:
    """One form of a captured graph, rewritten or not, and the live bodies compiled from it.

    Args:
        module: the form, its slots as the last placeholders.
        slots: of ``module``.
        recipe: how the slots are filled; ``None`` until numbers are known, or without slots.
        arguments: of the captured graph.
        inner: the inner compiler.
        packs: whether bodies that are yet to come take packed weights.

    Attributes:
        weight_layout: that folded weights are given; ``None`` for that of the parameters.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        slots: Sequence[Slot],
        recipe: Recipe | None,
        arguments: Arguments,
        inner: Inner,
        packs: bool,
    ) -> None:
        self.module = module
        self.slots = tuple(slots)
        self.recipe = recipe
        self.packs = packs
        self.bodies: tuple[Body, ...] = ()
        self.weight_layout = inner.weight_layout
        self._arguments = arguments
        self._inner = inner
        self._captured = captured_as(module)
        self._kept: dict[Any, Any] = {}

    def ways(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> tuple[Way, ...]:
        """All bodies, with these numbers."""
        return tuple(body.way(numbers, weights) for body in self.bodies)

    def fill(self, numbers: Numbers) -> list[torch.Tensor] | None:
        """What the slots hold; ``None`` where this is not the right form for the numbers."""
        if self.recipe is None:
            return None if self.slots else []
        filled = self.recipe.fill(self._arguments.tensors(numbers.args, numbers.watched))
        if filled is None or self.weight_layout is None:
            return filled
        return [self.weight_layout(weight) for weight in filled]

    def is_form_of(self, rewritten: Rewritten) -> bool:
        """Whether ``rewritten`` is this very form, of other numbers."""
        return rewritten.slots == self.slots and text_of(rewritten.module) == text_of(self.module)

    # Compiling now, inside Dynamo's tracing context, which knows dynamic shapes.

    def compile(self, example_inputs: Sequence[Any], extra: Sequence[torch.Tensor]) -> Compiled:
        """The plain live body; ``extra`` are examples of the slots."""
        run = self._inner.compile(bind(self.module, {}), [*example_inputs, *extra])
        self.packs, self.bodies = False, (PlainBody(always, run),)
        return run

    def pack(
        self, example_inputs: Sequence[Any], numbers: Numbers, weights: Sequence[torch.Tensor]
    ) -> None:
        """The packed live body; ``numbers`` are of ``example_inputs``."""
        # AOTAutograd would make one input of two slots that hold the same tensor.
        extra = [weight.detach() for weight in weights]
        extra = describe_slots(self.module, self.slots, extra, example_inputs)
        given = self._floats(numbers.args, weights)
        self.bodies = (self._pack(bind(self.module, {}), given, [*example_inputs, *extra], always),)

    def freeze(
        self, example_inputs: Sequence[Any], numbers: Numbers, weights: Sequence[torch.Tensor]
    ) -> Way:
        """A frozen body; ``numbers`` are of ``example_inputs``."""
        assert self._inner.freeze is not None
        taken = self._arguments.not_bound(self._arguments.parameters)
        module = bind(self.module, self._all(numbers.args, weights))
        module.meta[KEPT] = self._kept
        run = self._inner.freeze(module, [example_inputs[at] for at in taken])
        return Way(always, lambda args: run(*[args[at] for at in taken]))

    # Compiling later: Dynamo is done with the graph.

    def compile_late(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> None:
        """See to it that there is a live body for arguments like these: once, and alone."""
        with compiling():
            if any(body.fits(numbers.args) for body in self.bodies):
                return  # another thread did
            self.bodies = (*self.bodies, self._late_body(numbers, weights))

    def _late_body(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Body:
        if self._inner.fallback is not None:  # an engine takes constants, once they have settled
            return PlainBody(always, self.module)
        if len(self.bodies) >= MAX_LATE_BODIES:
            log.warning(
                "bnfx: the graph was compiled for %d sizes; PyTorch runs others", len(self.bodies)
            )
            return PlainBody(always, self.module)
        if self.packs:
            try:
                return self._packed_late(numbers, weights)
            except Exception as error:
                log.warning("bnfx: packing failed, folded weights stay plain inputs: %r", error)
                self.packs = False
        inputs = LateInputs.of([*self._captured], [*numbers.args, *weights])
        try:
            with inputs.context():
                run = self._inner.compile(fresh(self.module, inputs), inputs.examples)
            return PlainBody(inputs.guards(), run)
        except Exception as error:
            log.warning("bnfx: a graph did not compile, PyTorch runs it: %r", error)
            return PlainBody(always, self.module)

    def _packed_late(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Body:
        inputs = LateInputs.of([*self._captured], [*numbers.args, *weights])
        given = self._floats(numbers.args, weights)
        with inputs.context():
            body = self._pack(fresh(self.module, inputs), given, inputs.examples, always)
        return replace(body, fits=inputs.guards())

    def freeze_late(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Way:
        """A frozen body for parameters that have settled."""
        assert self._inner.freeze is not None
        taken = self._arguments.not_bound(self._arguments.parameters)
        with compiling():
            inputs = self._inputs(taken, numbers)
            module = fresh(self.module, inputs, self._all(numbers.args, weights))
            module.meta[KEPT] = self._kept
            with inputs.context():
                run = self._inner.freeze(module, inputs.examples)
            fits = _of(taken, inputs.guards())
        return Way(fits, lambda args: run(*[args[at] for at in taken]))

    def _pack(
        self,
        module: fx.GraphModule,
        weights: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        fits: Fits,
    ) -> PackedBody:
        assert self._inner.pack is not None
        packed = self._inner.pack(module, weights, inputs)
        return PackedBody(fits, packed, len(self.slots), self._floats)

    def _inputs(self, taken: Sequence[int], numbers: Numbers) -> LateInputs:
        return LateInputs.of(
            [self._captured[at] for at in taken], [numbers.args[at] for at in taken]
        )

    def _floats(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Everything that a packed body binds."""
        slots = {slot.name: weight for slot, weight in zip(self.slots, weights, strict=True)}
        return {name: args[at] for name, at in self._arguments.floats.items()} | slots

    def _all(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Everything that a frozen body binds."""
        parameters = {name: args[at] for name, at in self._arguments.parameters.items()}
        return parameters | self._floats(args, weights)


def _of(taken: Sequence[int], guards: Fits) -> Fits:
    return lambda args: guards([args[at] for at in taken])
