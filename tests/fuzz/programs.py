"""Random networks out of everything that a rule looks at, as hypothesis strategies.

A network is a list of steps; each reads earlier values and makes one more. Sizes are few and small,
so that they agree by accident as often as can be. Numbers are multiples of 1/64, which any dtype
holds, and which are short where a network is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fuzz.network import Network, Step
from hypothesis import strategies as st
from torch import nn

Draw = Callable[[Any], Any]
Shape = tuple[int, ...]


def _rounded(value: torch.Tensor) -> torch.Tensor:
    return (value * 64).round() / 64


def _with_rounded(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(_rounded(parameter))
    return layer


def _numbers(shape: Shape, seed: int) -> nn.Parameter:
    """A signed parameter, 0 here and there."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return nn.Parameter(_rounded(torch.where(value.abs() < 0.2, torch.zeros(()), value)))


def _norm(channels: int, seed: int, positive: bool) -> nn.BatchNorm2d:
    """A BatchNorm with signed numbers (or positive scales), a scale of 0 among them."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return _rounded(low + (high - low) * torch.rand(channels, generator=generator))

    with torch.no_grad():
        norm.weight.copy_(uniform(0.5, 1.5) if positive else uniform(-1.5, 1.5))
        norm.weight[torch.rand(channels, generator=generator) < 0.1] = 0
        norm.bias.copy_(uniform(-0.5, 0.5))
        norm.running_mean.copy_(uniform(-0.5, 0.5))
        norm.running_var.copy_(uniform(0.5, 2.0))
    return norm


LAYER = "{layer}({0})"


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
    return Step(LAYER, (), _with_rounded(layer))


def _transposed(draw: Draw, shape: Shape) -> Step:
    kernel = draw(st.sampled_from([1, 2, 3]))
    layer = nn.ConvTranspose2d(shape[1], shape[1], kernel, padding=kernel // 2)
    return Step(LAYER, (), _with_rounded(layer))


def _batch_norm(draw: Draw, shape: Shape) -> Step:
    positive = draw(st.booleans())
    return Step(LAYER, (), _norm(shape[1], draw(st.integers(0, 9999)), positive))


_ARITHMETIC = (
    "{0} + {layer}",
    "{layer} - {0}",
    "{layer} * {0}",
    "{0} / ({layer}.abs() + 0.5)",
    "({0} * 1).mul_({layer})",
    "{0}.clone().add_({layer})",
)


def _arithmetic(draw: Draw, shape: Shape) -> Step:
    shapes = [(), (shape[1], 1, 1), (1, shape[1], 1, 1), (shape[3],), (shape[2], 1)]
    numbers = _numbers(draw(st.sampled_from(shapes)), draw(st.integers(0, 9999)))
    return Step(draw(st.sampled_from(_ARITHMETIC)), (), numbers)


_UNARY = (
    "-{0}",
    "({0} * 2 - 1) / 3",
    "F.relu({0})",
    "F.relu({0}, inplace=True)",
    "{0}.mul_(0.5)",
    "F.leaky_relu({0}, 0.1)",
    "torch.tanh({0})",
    "F.max_pool2d({0}, 2, 1)",
    "F.max_pool2d({0}, 3, 1, 1)",
    "F.avg_pool2d({0}, 2, 1)",
    "F.avg_pool2d({0}, 3, 1, 1)",
    "F.adaptive_avg_pool2d({0}, 2)",
    "{0}.mean((2, 3), keepdim=True)",
    "F.interpolate({0}, size=(4, 4))",
    "F.interpolate({0}, size=(5, 3), mode='bilinear')",
    "F.pad({0}, (1, 0, 0, 1))",
    "F.pad({0}, (1, 0), value=1.0)",
    "F.pad({0}, (1, 0, 0, 1), mode='replicate')",
    "{0}.transpose(2, 3)",
    "{0}.transpose(1, 2)",
    "F.dropout({0}, training=False)",
    "{0}[:, :, :2]",
    "{0}[:, ::2]",
)
# Those that take a few channels.
_OF_TWO = ("{0}[:, : {0}.shape[1] // 2]", "{0}.chunk(2, 1)[1]")
_OF_FOUR = ("{0}.tensor_split((3, 1, 2), 1)[2]",)
_SHUFFLE = "{{0}}.reshape({{0}}.shape[0], {g}, -1, *{{0}}.shape[2:]).transpose(1, 2).flatten(1, 2)"


def _unary(draw: Draw, shape: Shape) -> Step:
    codes = [*_UNARY, _SHUFFLE.format(g=2 - shape[1] % 2)]
    codes += _OF_TWO if shape[1] >= 2 else ()
    codes += _OF_FOUR if shape[1] >= 4 else ()
    return Step(draw(st.sampled_from(codes)))


_BINARY = (
    "{0} + {1}",
    "torch.sub({0}, {1}, alpha=2)",
    "{0} * {1}",
    "({0} * 1.0).add_({1})",
)
_CAT = "torch.cat([{0}, {1}], 1)"
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
        step = Step(step.code, reads, step.layer)
        try:
            with torch.no_grad():
                shape = tuple(step.run(*(torch.zeros(shapes[index]) for index in reads)).shape)
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
        return Step(draw(st.sampled_from([*_BINARY, _CAT])))
    if one[0] == other[0] and one[2:] == other[2:]:
        return Step(_CAT)
    return None
