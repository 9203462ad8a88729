"""A folded function without Dynamo around it, and inner compilers that run graphs as they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from support import randomise
from torch import fx, nn

from bnfx.inner.base import Inner
from bnfx.inner.packed.packing import Packed
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import Rewritten, rewrite_captured
from bnfx.weights.function import FoldedFunction


@functools.cache
def captured() -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """Two convolutions with BatchNorms, and one without; and its arguments."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    randomise(model).eval().requires_grad_(False)
    found: list[tuple[fx.GraphModule, tuple[Any, ...]]] = []

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        found.append((graph, tuple(example_inputs)))
        return graph.forward

    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(torch.randn(2, 3, 7, 7))
    return found[0]


@dataclass
class Made:
    """A folded function with arguments of its own."""

    function: FoldedFunction
    graph: fx.GraphModule
    inputs: GraphInputs
    args: list[Any]

    def compile(self, wanted: str = "live") -> tuple[str, str]:
        with torch.no_grad():
            return self.function.compile(self.args, True, wanted)

    def call(self) -> torch.Tensor:
        with torch.no_grad():
            (answer,) = self.function(*self.args)
        return answer

    def is_right(self) -> bool:
        with torch.no_grad():
            (expected,) = self.graph.forward(*self.args)
        return torch.allclose(self.call(), expected, rtol=1e-4, atol=1e-5, equal_nan=True)

    def parameter(self, part: str) -> torch.Tensor:
        """The first whose name has that part."""
        return next(
            self.args[at] for name, at in self.inputs.positions.items() if part in name.lower()
        )

    def spoil(self) -> None:
        """Nothing folds any more."""
        for variance in self.variances:
            variance[0] = -1.0

    @property
    def variances(self) -> list[torch.Tensor]:
        return variances(self.inputs, self.args)

    @property
    def state(self) -> Any:
        """The one that answers these arguments."""
        return self.function._current(self.args)


def made(inner: Inner, spoilt: int | None = None) -> Made:
    """Without the BatchNorm ``spoilt``, which does not fold with such numbers."""
    graph, examples = captured()
    args = [each.clone() for each in examples]
    inputs = GraphInputs.of(graph, args)
    if spoilt is not None:
        variances(inputs, args)[spoilt][0] = -1.0

    def refold(inputs: GraphInputs) -> Rewritten:
        return rewrite_captured(graph, inputs, signs=False)

    function = FoldedFunction(graph, inputs, rewrite_captured(graph, inputs), refold, inner)
    return Made(function, graph, inputs, args)


def variances(inputs: GraphInputs, args: Sequence[Any]) -> list[torch.Tensor]:
    """Of the BatchNorms, in order."""
    return [args[at] for name, at in inputs.positions.items() if "running_var" in name.lower()]


def as_it_is(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    return module.forward


def fail(error: BaseException) -> Callable[..., Any]:
    def raise_it(*args: Any) -> Any:
        raise error

    return raise_it


def pack(
    module: fx.GraphModule, weights: Mapping[str, torch.Tensor], inputs: Sequence[Any]
) -> Packed:
    """Weights are doubled, and halved again by the body."""
    from bnfx.inner.packed import packed_code

    names = [node.name for node in module.graph.find_nodes(op="placeholder")]
    at = [names.index(name) for name in weights]

    def run(*given: Any) -> Any:
        filled = list(given)
        for position, constant in zip(at, packed_code._here.constants, strict=True):
            filled[position] = constant / 2
        return module.forward(*filled)

    return Packed(run, lambda numbers: [numbers[name] * 2 for name in weights])


PLAIN = Inner(as_it_is)
FREEZES = Inner(as_it_is, freeze=as_it_is)
PACKS = Inner(as_it_is, freeze=as_it_is, pack=pack)
ENGINE = Inner(as_it_is, freeze=as_it_is, fallback=PLAIN)
