"""Networks as lines of source, so that what fails can be printed as a program."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NAMES = {"torch": torch, "F": F, "nn": nn}


@dataclass(frozen=True)
class Step:
    """A line of a network, which makes one more value out of earlier ones.

    Args:
        code: an expression; ``{0}`` and ``{1}`` stand for what it reads, ``{layer}`` for the layer.
        reads: the numbers of the values it reads; 0 is the input.
        layer: a module whose ``repr`` makes it anew, or a parameter.
    """

    code: str
    reads: tuple[int, ...] = ()
    layer: nn.Module | nn.Parameter | None = None

    @property
    def writes(self) -> bool:
        """Whether memory of what it reads is written."""
        return "_(" in self.code.replace("leaky_", "") or "inplace=True" in self.code

    def run(self, *values: torch.Tensor) -> torch.Tensor:
        """The value by itself, outside of a network."""
        names = [f"a{index}" for index in range(len(values))]
        source = self.code.format(*names, layer="layer")
        scope = {**NAMES, "layer": self.layer, **dict(zip(names, values, strict=True))}
        value: torch.Tensor = eval(source, scope)
        return value


@dataclass(frozen=True)
class Network:
    """Steps, and the numbers of the values that are given."""

    steps: list[Step]
    outputs: list[int]

    def source(self) -> str:
        """The class of the network."""
        made = [
            f"        self.layer{index} = {_constructor(step.layer)}"
            for index, step in enumerate(self.steps, 1)
            if step.layer is not None
        ]
        lines = [
            f"        v{index} = "
            + step.code.format(*(f"v{i}" for i in step.reads), layer=f"self.layer{index}")
            for index, step in enumerate(self.steps, 1)
        ]
        given = "".join(f"v{index}, " for index in self.outputs)
        return "\n".join(
            [
                "class Network(nn.Module):",
                "    def __init__(self):",
                "        super().__init__()",
                *made,
                "",
                "    def forward(self, v0):",
                *lines,
                f"        return ({given})",
            ]
        )

    def module(self) -> Any:
        """A new instance of that class, with the numbers of the layers, in evaluation mode."""
        scope: dict[str, Any] = {**NAMES, "__name__": __name__}
        exec(self.source(), scope)
        module = scope["Network"]()
        for index, step in enumerate(self.steps, 1):
            if step.layer is not None:
                setattr(module, f"layer{index}", copy.deepcopy(step.layer))
        return module.eval()

    def numbers(self) -> str:
        """The state dict, as source."""
        rows = [
            f"    {name!r}: torch.tensor({value.tolist()!r}, dtype={value.dtype}),"
            for name, value in self.module().state_dict().items()
        ]
        return "\n".join(["{", *rows, "}"])


def _constructor(layer: nn.Module | nn.Parameter) -> str:
    if isinstance(layer, nn.Parameter):
        return f"nn.Parameter(torch.zeros({tuple(layer.shape)}))"
    return f"nn.{layer!r}"
