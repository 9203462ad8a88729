"""Where the placeholders of a captured graph stand among the arguments of its calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.dynamo import GraphInputs, has_constant_output
from bnfx.passes.fx.memory.aliasing import mutated_leaves
from bnfx.passes.fx.parameters.sources import PLAIN, memory

# oneDNN has no float64, and Inductor fails to prepack it.
_PACKABLE = frozenset({torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class Arguments:
    """Positions only: the tensors of one call are not to be kept alive.

    Args:
        positions: placeholder name -> position, of all.
        parameters, scalars, others: see :class:`~bnfx.passes.fx.dynamo.GraphInputs`.
        written: those that the graph may write to.
        refusal: why the parameters cannot be constants, if they cannot.
        floats: of parameters, those that Inductor may pack.
    """

    positions: Mapping[str, int]
    parameters: Mapping[str, int]
    scalars: Mapping[str, int]
    others: Mapping[str, int]
    written: tuple[int, ...]
    refusal: str
    floats: Mapping[str, int]

    @staticmethod
    def of(module: fx.GraphModule, inputs: GraphInputs) -> Arguments:
        """The arguments of ``module``, which Dynamo captured."""
        leaves = mutated_leaves(module.graph, module)
        written = {leaf.name for leaf in leaves if leaf.op == "placeholder"}
        at = inputs.positions
        return Arguments(
            positions=at,
            parameters={name: at[name] for name in inputs.parameters},
            scalars={name: at[name] for name in inputs.scalars},
            others={name: at[name] for name in inputs.others},
            written=tuple(at[name] for name in at if name in written),
            refusal=_refusal(module, inputs, bool(written)),
            floats={
                name: at[name]
                for name, tensor in inputs.parameters.items()
                # One of a single element would be folded as a number.
                if tensor.dtype in _PACKABLE and tensor.numel() > 1
            },
        )

    def tensors(self, args: Sequence[Any], watched: Collection[int]) -> dict[str, torch.Tensor]:
        """What weights may be folded from, by name: what is watched, and numbers; nothing else."""
        parameters = {name: args[at] for name, at in self.parameters.items() if at in watched}
        return parameters | {name: args[at] for name, at in self.scalars.items()}

    def inputs(self, args: Sequence[Any]) -> GraphInputs:
        """The tensors of one call, sorted as the rewrite takes them."""
        groups = (self.parameters, self.scalars, self.others)
        return GraphInputs(self.positions, *({n: args[at] for n, at in g.items()} for g in groups))

    def scalar_values(self, args: Sequence[Any]) -> tuple[float, ...]:
        return tuple(float(args[at]) for at in self._scalar_positions)

    @cached_property
    def _scalar_positions(self) -> tuple[int, ...]:
        return tuple(self.scalars.values())

    def not_bound(self, bound: Mapping[str, int]) -> tuple[int, ...]:
        """The positions of everything else, in order."""
        taken = set(bound.values())
        return tuple(at for at in range(len(self.positions)) if at not in taken)

    def writes_to(self, args: Sequence[Any], sources: Sequence[int]) -> bool:
        """Whether an input that the graph writes to shares memory with another of ``sources``."""
        if not self.written:
            return False
        memories = {memory(args[at]) for at in sources if at not in self.written}
        return any(memory(args[at]) in memories for at in self.written)


def _refusal(module: fx.GraphModule, inputs: GraphInputs, writes: bool) -> str:
    if writes:
        # Written to: no constant, or an input whose aliases only a traced graph can guard.
        return "the graph writes to an input or parameter"
    if has_constant_output(module, inputs.parameters):
        # The caller would be handed the constant itself, and may write to it.
        return "an output depends on no input"
    for name, tensor in inputs.parameters.items():
        if type(tensor) not in PLAIN or tensor.layout != torch.strided or tensor.is_complex():
            return f"{name} is no plain tensor"  # nothing that a snapshot could vouch for
        if tensor.dtype == torch.float64:
            return "oneDNN has no float64"
    return ""
