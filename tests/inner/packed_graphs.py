"""Graphs whose weights are packed, compiled without Dynamo around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import fx

from bnfx.inner.inductor import inductor
from bnfx.inner.late import LateInputs, captured_as, fresh
from bnfx.inner.packed.packing import Packed, serve
from bnfx.torch_private import (
    ConstantSource,
    DimDynamic,
    FakeTensorMode,
    ShapeEnv,
    StatelessSymbolicContext,
)

Graph = Callable[..., tuple[Any, ...]]


@dataclass
class Made:
    """A graph that was compiled, and what it is called with."""

    graph: Graph
    args: list[Any]
    weights: Sequence[str]
    names: Sequence[str]
    packed: Packed

    def given(self) -> dict[str, torch.Tensor]:
        return {name: self.args[self.names.index(name)] for name in self.weights}

    def call(self) -> tuple[Any, ...]:
        """Its weights are packed as they are now; they are no inputs of what was compiled."""
        constants = self.packed.pack(self.given())
        args = [
            None if name in self.weights else arg
            for name, arg in zip(self.names, self.args, strict=True)
        ]
        with torch.no_grad():
            return tuple(serve(self.packed, args, constants))

    def is_right(self) -> bool:
        """Now, and with other numbers."""
        found = []
        for _ in range(2):
            wide = [each.double() if _is_float(each) else each for each in self.args]
            expected = self.graph(*wide)
            answers = self.call()
            found += map(_agree, answers, expected)
            for weight in self.given().values():
                weight.normal_()
        return all(found)

    @property
    def steps(self) -> list[str]:
        """By which the constants are made."""
        return [str(step.op) for step in self.packed.pack.steps]  # type: ignore[attr-defined]


def _agree(ours: Any, theirs: Any) -> bool:
    if not isinstance(theirs, torch.Tensor):
        return bool(ours == theirs)
    near = torch.allclose(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)
    return near and ours.dtype == torch.float32 and ours.stride() == theirs.stride()


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def traced(graph: Graph) -> fx.GraphModule:
    """Without its annotations, which are text here; caches expect classes."""
    module = fx.symbolic_trace(graph)
    for node in module.graph.nodes:
        node.type = None
    module.recompile()
    return module


def open_size(value: torch.Tensor) -> torch.Tensor:
    """What Dynamo knows it as where its first size may change."""
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (value.dim() - 1)]
    context = StatelessSymbolicContext(sizes)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    known: torch.Tensor = mode.from_tensor(
        value, source=ConstantSource("x"), symbolic_context=context
    )
    return known


def made(
    graph: Graph, args: Sequence[Any], weights: str, is_open: bool = False, **patches: Any
) -> Made:
    """Compile ``graph`` for ``args``; ``weights`` are the names of those that are to be packed.

    ``is_open``: the first argument may have another first size in each call.

    AOTAutograd's cache is off: an entry would hide what is done to the graph.
    """
    module = traced(graph)
    names = [node.name for node in module.graph.find_nodes(op="placeholder")]
    found = Made(graph, list(args), weights.split(), names, None)  # type: ignore[arg-type]
    if is_open:
        first = next(iter(module.graph.nodes))
        first.meta["example_value"] = open_size(args[0])
    inputs = LateInputs.of(captured_as(module), args)
    pack = inductor(patches, None).pack
    assert pack is not None
    with inputs.context(), torch._functorch.config.patch(enable_autograd_cache=False):
        found.packed = pack(fresh(module, inputs), found.given(), inputs.examples)
    return found
