"""Random networks out of everything that a rule looks at, as hypothesis strategies.

A network is a list of steps; each reads earlier values and makes one more. Sizes are few and small,
so that they agree by accident as often as can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

Draw = Callable[[Any], Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """``values.append(run(layer, *(values[i] for i in reads)))``; the layer may be missing."""

    name: str
    reads: tuple[int, ...]
    run: Callable[..., torch.Tensor]
    layer: nn.Module | None = None


class Network(nn.Module):
    """Runs the steps; gives the values that nobody reads, and the last one."""

    def __init__(self, steps: list[Step], outputs: list[int]) -> None:
        super().__init__()
        self.steps, self.outputs = steps, outputs
        for index, step in enumerate(steps):
            if step.layer is not None:
                self.add_module(f"layer{index}", step.layer)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for index, step in enumerate(self.steps):
            layer = getattr(self, f"layer{index}", None)
            values.append(step.run(layer, *(values[i] for i in step.reads)))
        return tuple(values[i] for i in self.outputs)

    def __repr__(self) -> str:
        lines = [
            f"  v{index + 1} = {step.name}({', '.join(f'v{i}' for i in step.reads)})"
            for index, step in enumerate(self.steps)
        ]
        return "\n".join(["Network:", *lines, f"  return {self.outputs}"])


class Numbers(nn.Module):
    """A signed parameter of some shape, 0 here and there."""

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        value = torch.randn(shape, generator=generator)
        self.value = nn.Parameter(torch.where(value.abs() < 0.2, torch.zeros(()), value))


def _norm(channels: int, seed: int, positive: bool) -> nn.Module:
    """A BatchNorm with signed numbers (or positive scales), a scale of 0 among them."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(channels, generator=generator)

    with torch.no_grad():
        norm.weight.copy_(uniform(0.5, 1.5) if positive else uniform(-1.5, 1.5))
        norm.weight[torch.rand(channels, generator=generator) < 0.1] = 0
        norm.bias.copy_(uniform(-0.5, 0.5))
        norm.running_mean.copy_(uniform(-0.5, 0.5))
        norm.running_var.copy_(uniform(0.5, 2.0))
    return norm


def _apply(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def _conv(draw: Draw, shape: Shape) -> Step | None:
    _, channels, height, width = shape
    kernel = draw(st.sampled_from([1, 1, 3, 2]))
    padding = draw(st.sampled_from([0, kernel // 2]))
    if min(height, width) + 2 * padding < kernel:
        return None
    groups = draw(st.sampled_from([g for g in (1, 1, 2, channels) if channels % g == 0]))
    out = draw(st.sampled_from([c for c in (channels, 4, 6) if c % groups == 0] or [channels]))
    stride, bias = draw(st.sampled_from([1, 1, 2])), draw(st.booleans())
    layer = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=bias)
    return Step(f"conv{kernel}x{kernel}_p{padding}_g{groups}_s{stride}", (), _apply, layer)


def _transposed(draw: Draw, shape: Shape) -> Step:
    kernel = draw(st.sampled_from([1, 2, 3]))
    layer = nn.ConvTranspose2d(shape[1], shape[1], kernel, padding=kernel // 2)
    return Step(f"transposed{kernel}", (), _apply, layer)


def _batch_norm(draw: Draw, shape: Shape) -> Step:
    positive = draw(st.booleans())
    layer = _norm(shape[1], draw(st.integers(0, 9999)), positive)
    return Step(f"bn{'+' if positive else ''}", (), _apply, layer)


def _arithmetic(draw: Draw, shape: Shape) -> Step:
    shapes = [(), (shape[1], 1, 1), (1, shape[1], 1, 1), (shape[3],), (shape[2], 1)]
    numbers = Numbers(draw(st.sampled_from(shapes)), draw(st.integers(0, 9999)))
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "add": lambda m, x: x + m.value,
        "rsub": lambda m, x: m.value - x,
        "mul": lambda m, x: m.value * x,
        "neg": lambda m, x: -x,
        "div": lambda m, x: x / (m.value.abs() + 0.5),
        "scalars": lambda m, x: (x * 2 - 1) / 3,
        "mul_": lambda m, x: (x * 1).mul_(m.value),
        "write": lambda m, x: x.clone().add_(m.value),
    }
    name = draw(st.sampled_from(list(functions)))
    return Step(f"{name}{tuple(numbers.value.shape)}", (), functions[name], numbers)


def _unary(draw: Draw, shape: Shape) -> Step | None:
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "relu": lambda m, x: F.relu(x),
        "relu_": lambda m, x: F.relu(x, inplace=True),
        "write": lambda m, x: x.mul_(0.5),
        "leaky": lambda m, x: F.leaky_relu(x, 0.1),
        "tanh": lambda m, x: torch.tanh(x),
        "max_pool": lambda m, x: F.max_pool2d(x, 2, 1),
        "max_pool_padded": lambda m, x: F.max_pool2d(x, 3, 1, 1),
        "avg_pool": lambda m, x: F.avg_pool2d(x, 2, 1),
        "avg_pool_counting": lambda m, x: F.avg_pool2d(x, 3, 1, 1),
        "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, 2),
        "mean": lambda m, x: x.mean((2, 3), keepdim=True),
        "nearest": lambda m, x: F.interpolate(x, size=(4, 4)),
        "bilinear": lambda m, x: F.interpolate(x, size=(5, 3), mode="bilinear"),
        "zero_pad": lambda m, x: F.pad(x, (1, 0, 0, 1)),
        "one_pad": lambda m, x: F.pad(x, (1, 0), value=1.0),
        "replicate": lambda m, x: F.pad(x, (1, 0, 0, 1), mode="replicate"),
        "swap_space": lambda m, x: x.transpose(2, 3),
        "swap_channels": lambda m, x: x.transpose(1, 2),
        "shuffle": lambda m, x: _shuffled(x, 2 - shape[1] % 2),
        "dropout": lambda m, x: F.dropout(x, training=False),
        "first_half": lambda m, x: x[:, : x.shape[1] // 2],
        "second_half": lambda m, x: x.chunk(2, 1)[1],
        "every_other": lambda m, x: x[:, ::2],
        "overlapping": lambda m, x: x.tensor_split((3, 1, 2), 1)[2],
        "rows": lambda m, x: x[:, :, :2],
    }
    name = draw(st.sampled_from(list(functions)))
    if shape[1] < {"first_half": 2, "second_half": 2, "overlapping": 4}.get(name, 1):
        return None
    return Step(name, (), functions[name])


def _shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda m, x, y: x + y,
    "sub": lambda m, x, y: torch.sub(x, y, alpha=2),
    "mul": lambda m, x, y: x * y,
    "iadd": lambda m, x, y: (x * 1.0).add_(y),
}
_MAKERS = (_conv, _conv, _conv, _transposed, _batch_norm, _batch_norm, _arithmetic, _unary, _unary)


@st.composite
def networks(draw: Draw) -> tuple[Network, Shape]:
    """A network and the shape of its input."""
    first: Shape = (2, draw(st.sampled_from([4, 6])), 6, draw(st.sampled_from([4, 6])))
    shapes: list[Shape] = [first]
    steps: list[Step] = []
    read: set[int] = set()
    torch.manual_seed(draw(st.integers(0, 9999)))
    for _ in range(draw(st.integers(3, 12))):
        # Recent values are read most, so that chains form; older ones make branches.
        source = max(0, len(shapes) - 1 - draw(st.sampled_from([0, 0, 0, 1, 2, 3])))
        reads: tuple[int, ...] = (source,)
        step: Step | None
        if draw(st.integers(0, 3)) == 0 and len(shapes) > 1:
            other = draw(st.integers(0, len(shapes) - 1))
            reads = (source, other)
            step = _join(draw, shapes[source], shapes[other])
        else:
            step = draw(st.sampled_from(_MAKERS))(draw, shapes[source])
        if step is None:
            continue
        step = Step(step.name, reads, step.run, step.layer)
        try:
            inputs = [torch.zeros(shapes[index]) for index in reads]
            with torch.no_grad():
                shape = tuple(step.run(step.layer, *inputs).shape)
        except RuntimeError:
            continue  # too small for that op
        if len(shape) != 4 or 0 in shape or max(shape) > 24:
            continue
        steps.append(step)
        shapes.append(shape)
        read.update(reads)
    unread = [index for index in range(1, len(shapes)) if index not in read]
    return Network(steps, unread or [0]), first


def _join(draw: Draw, one: Shape, other: Shape) -> Step | None:
    if one == other:
        name = draw(st.sampled_from([*_BINARY, "cat"]))
        if name != "cat":
            return Step(name, (), _BINARY[name])
    if one[0] == other[0] and one[2:] == other[2:]:
        return Step("cat", (), lambda m, x, y: torch.cat([x, y], 1))
    return None
