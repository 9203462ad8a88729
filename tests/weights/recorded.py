"""A model that is compiled, and what Dynamo calls in place of its graph, to be called directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from support import randomise
from torch import fx, nn

from bnfx.backend import bnfx
from bnfx.weights.function import FoldedFunction


class Recorded:
    """``call()`` is one call of the folded graph, without Dynamo around it."""

    def __init__(self, model: nn.Module, x: torch.Tensor, options: dict[str, Any]) -> None:
        self.model, self.x = model, x
        self._args: list[Any] = []
        found: list[FoldedFunction] = []

        def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
            function = bnfx(graph, example_inputs, options=options)
            assert isinstance(function, FoldedFunction)
            found.append(function)

            def call(*args: Any) -> Any:
                self._args = list(args)
                return function(*args)

            return call

        with torch.no_grad():
            torch.compile(model, backend=backend, fullgraph=True)(x)
        (self.function,) = found

    def call(self) -> torch.Tensor:
        with torch.no_grad():
            (answer,) = self.function(*self._args)
        return answer


def small(seed: int = 0) -> nn.Sequential:
    """Two convolutions and two BatchNorms."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return randomise(nn.Sequential(*layers, nn.BatchNorm2d(8)), seed).eval().requires_grad_(False)
