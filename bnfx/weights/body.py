"""The bodies that a rewritten graph is compiled to: live, live and packed, frozen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Compiled, Inner
from bnfx.inner.packing import Packed, serve
from bnfx.passes.fx.lowering.bind import BOUND_PREFIX, bind
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.weights.arguments import Arguments
from bnfx.weights.store import FoldedState

log = logging.getLogger("bnfx")


@dataclass(frozen=True)
class Frozen:
    """A body with constants, and the positions of what it still takes."""

    taken: tuple[int, ...]
    run: Compiled

    def __call__(self, args: Sequence[Any]) -> Any:
        return self.run(*[args[at] for at in self.taken])


class Program:
    """One rewritten form of a captured graph, and the live body compiled from it.

    Args:
        rewritten: the form, its slots as the last placeholders; its numbers are not kept.
        arguments: of the captured graph.
        inner: the inner compiler.
        packs: whether the live body takes packed weights.
    """

    def __init__(
        self,
        rewritten: Rewritten,
        arguments: Arguments,
        inner: Inner,
        packs: bool,
    ) -> None:
        self.module = rewritten.module
        self.slots = rewritten.slots
        self.recipe = rewritten.recipe  # how the slots are filled; None until numbers are known
        self.packs = packs
        self.bodies: list[Packed] = []
        self._arguments = arguments
        self._inner = inner
        self._taken = arguments.not_bound(arguments.floats)
        self._run: Compiled | None = None

    # Compiling now, inside Dynamo's tracing context, which knows dynamic shapes.

    def compile(self, example_inputs: Sequence[Any], extra: Sequence[torch.Tensor]) -> None:
        """The plain live body; ``extra`` are examples of the slots."""
        self.packs = False
        self._run = self._inner.compile(self.module, [*example_inputs, *extra])

    def pack(self, example_inputs: Sequence[Any], weights: Sequence[torch.Tensor]) -> None:
        """The packed live body."""
        tensors = self.weights_by_name(example_inputs, weights)
        module = bind(self.module, tensors)
        inputs = [example_inputs[at] for at in self._taken]
        self._run = self._pack(module, {name: name for name in tensors}, inputs)
        self.packs = True

    def freeze(self, example_inputs: Sequence[Any], weights: Sequence[torch.Tensor]) -> Frozen:
        """A frozen body."""
        assert self._inner.freeze is not None
        module, taken = self._bound(example_inputs, weights)
        return Frozen(taken, self._inner.freeze(module, [example_inputs[at] for at in taken]))

    # Compiling later: Dynamo is done with the graph, so it is traced again, with guards of its own.

    def freeze_late(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> Frozen:
        """A frozen body for parameters that have settled."""
        module, taken = self._bound(args, weights)

        def backend(graph: fx.GraphModule, names: Mapping[str, str], inputs: Sequence[Any]) -> Any:
            assert self._inner.freeze is not None
            return self._inner.freeze(graph, inputs)

        return Frozen(taken, compile_bound(module, backend))

    def __call__(self, args: Sequence[Any], state: FoldedState) -> Any:
        """Call the live body with what ``state`` holds."""
        if self._run is None and self.packs:
            module = bind(self.module, self.weights_by_name(args, self.fill(args)))
            run = compile_bound(module, self._pack)
            try:
                answer = self._serve(run, args, state)  # compiles
            except Exception as error:
                log.warning("bnfx: packing failed, folded weights stay plain inputs: %r", error)
                self.packs = False
            else:
                self._run = run
                return answer
        if self.packs:
            assert self._run is not None
            return self._serve(self._run, args, state)
        if self._run is None:
            self._run = compile_late(self.module, self._inner)
        if len(state.weights) != len(self.slots):
            state.weights = self.fill(args)  # it was filled for packing, which then failed
        return self._run(*args, *state.weights)

    def run_plain(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> Any:
        """Call the plain live body."""
        assert self._run is not None and not self.packs
        return self._run(*args, *weights)

    def is_form_of(self, rewritten: Rewritten) -> bool:
        """Whether ``rewritten`` is this very form, of other numbers."""
        return rewritten.slots == self.slots and rewritten.module.code == self.module.code

    def _serve(self, run: Compiled, args: Sequence[Any], state: FoldedState) -> Any:
        constants = state.constants

        def find(body: Packed) -> Sequence[torch.Tensor]:
            if body not in constants:  # it was compiled during this call
                constants[body] = body.pack(self.weights_by_name(args, self.fill(args)))
            return constants[body]

        return serve(run, [args[at] for at in self._taken], find)

    def constants(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor]
    ) -> dict[Packed, Sequence[torch.Tensor]]:
        """What the packed bodies take, for these parameters."""
        tensors = self.weights_by_name(args, weights)
        return {body: body.pack(tensors) for body in self.bodies}

    def fill(self, args: Sequence[Any]) -> list[torch.Tensor]:
        """What the slots hold, for parameters for which this is the right form."""
        assert self.recipe is not None
        return self.recipe.fill_unchecked(self._arguments.tensors(args))

    def weights_by_name(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Everything that the packed body binds."""
        slots = {slot.name: weight for slot, weight in zip(self.slots, weights, strict=True)}
        return {name: args[at] for name, at in self._arguments.floats.items()} | slots

    def _bound(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor]
    ) -> tuple[fx.GraphModule, tuple[int, ...]]:
        parameters = self._arguments.parameters
        slots = {slot.name: weight for slot, weight in zip(self.slots, weights, strict=True)}
        tensors = {name: args[at] for name, at in parameters.items()} | slots
        return bind(self.module, tensors), self._arguments.not_bound(parameters)

    def _pack(
        self, module: fx.GraphModule, names: Mapping[str, str], inputs: Sequence[Any]
    ) -> Compiled:
        assert self._inner.pack is not None
        body = self._inner.pack(module, names, inputs)
        for bound in names:  # the numbers of this moment are not to be kept
            if hasattr(module, f"{BOUND_PREFIX}{bound}"):
                delattr(module, f"{BOUND_PREFIX}{bound}")
        self.bodies = [*self.bodies, body]
        return body.run


def compile_late(module: fx.GraphModule, inner: Inner) -> Compiled:
    """Compile a graph after Dynamo is done with it: traced again, with guards of its own."""

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        return inner.compile(graph, example_inputs)

    # Code that Dynamo met while disabled, as it is here, is never traced: make it new.
    module.recompile()
    compiled: Compiled = torch.compile(module, backend=backend)
    return compiled


def compile_bound(
    module: fx.GraphModule,
    compile_: Callable[[fx.GraphModule, Mapping[str, str], Sequence[Any]], Compiled],
) -> Compiled:
    """The same for a graph whose weights are bound, which Dynamo makes inputs again.

    Args:
        module: from :func:`bnfx.passes.fx.lowering.bind.bind`.
        compile_: takes a graph whose weights are bound, the name that each was bound by there and
            here, and its other inputs.
    """
    names = {
        id(tensor): name.removeprefix(BOUND_PREFIX)
        for name, tensor in module.named_parameters()
        if name.startswith(BOUND_PREFIX)
    }

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        placeholders = graph.graph.find_nodes(op="placeholder")
        tensors, known, taken = {}, {}, []
        for at, (node, value) in enumerate(zip(placeholders, example_inputs, strict=True)):
            if id(value) in names:
                tensors[node.name], known[node.name] = value, names[id(value)]
            else:
                taken.append(at)
        run = compile_(bind(graph, tensors), known, [example_inputs[at] for at in taken])
        return lambda *args: run(*[args[at] for at in taken])

    module.recompile()
    compiled: Compiled = torch.compile(module, backend=backend)
    return compiled
