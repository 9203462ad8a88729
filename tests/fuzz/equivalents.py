"""Rewrites of a network into others that compute the same, each by one rule of algebra."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from fuzz.programs import Network, Step
from torch import nn

# What takes the step at a place of a network apart: the steps in its stead, where the first reads
# what it read, each next one reads the one before (-1), and those further back by -2, -3, ...
Parts = list[tuple[str, tuple[int, ...], Callable[..., torch.Tensor], nn.Module | None]]


def _call(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def split_channels(step: Step) -> Parts | None:
    """A convolution as two, one for the first output channels and one for the rest."""
    conv = step.layer
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or conv.out_channels < 2:
        return None
    at = conv.out_channels // 2
    halves = []
    for part in (slice(None, at), slice(at, None)):
        half = copy.deepcopy(conv)
        half.weight = nn.Parameter(conv.weight.detach()[part].clone())
        half.out_channels = len(half.weight)
        if conv.bias is not None:
            half.bias = nn.Parameter(conv.bias.detach()[part].clone())
        halves.append(half)
    return [
        ("first_channels", (0,), _call, halves[0]),
        ("other_channels", (0,), _call, halves[1]),
        ("cat", (-2, -1), lambda m, a, b: torch.cat([a, b], 1), None),
    ]


def by_hand(step: Step) -> Parts | None:
    """A BatchNorm as people write it out."""
    norm = step.layer
    if not isinstance(norm, nn.BatchNorm2d):
        return None

    def run(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        view = (1, -1, 1, 1)
        normal = (x - m.running_mean.view(view)) / torch.sqrt(m.running_var.view(view) + m.eps)
        return normal * m.weight.view(view) + m.bias.view(view)

    return [("bn_by_hand", (0,), run, copy.deepcopy(norm))]


def permuted(step: Step) -> Parts:
    """The step, and its value turned to channels last and back."""
    return [
        (step.name, (), step.run, step.layer),
        ("channels_last", (-1,), lambda m, x: x.permute(0, 2, 3, 1), None),
        ("channels_first", (-1,), lambda m, x: x.permute(0, 3, 1, 2), None),
    ]


def scaled(step: Step) -> Parts | None:
    """A convolution with half of its weights, and twice its value."""
    conv = step.layer
    if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
        return None
    half = copy.deepcopy(conv)
    with torch.no_grad():
        for parameter in half.parameters():
            parameter.mul_(0.5)
    return [("half", (0,), _call, half), ("twice", (-1,), lambda m, x: x * 2.0, None)]


def in_two(step: Step) -> Parts | None:
    """A convolution behind a pointwise one that reverses its input channels."""
    conv = step.layer
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        return None
    ins = conv.in_channels
    reverse = nn.Conv2d(ins, ins, 1, bias=False)
    turned = copy.deepcopy(conv)
    with torch.no_grad():
        reverse.weight.copy_(torch.eye(ins).flip(0)[:, :, None, None])
        turned.weight.copy_(conv.weight.flip(1))
    return [("reverse", (0,), _call, reverse), ("turned", (-1,), _call, turned)]


def summed(step: Step) -> Parts | None:
    """A convolution as a sum of two."""
    conv = step.layer
    if not isinstance(conv, nn.Conv2d):
        return None
    one, other = copy.deepcopy(conv), copy.deepcopy(conv)
    with torch.no_grad():
        one.weight.mul_(0.75)
        other.weight.mul_(0.25)
        if conv.bias is not None and other.bias is not None:
            other.bias.zero_()
    return [
        ("most", (0,), _call, one),
        ("rest", (0,), _call, other),
        ("add", (-2, -1), lambda m, a, b: a + b, None),
    ]


REWRITES: dict[str, Callable[[Step], Parts | None]] = {
    "split channels": split_channels,
    "by hand": by_hand,
    "permuted": permuted,
    "scaled": scaled,
    "in two": in_two,
    "summed": summed,
}


def rewritten(network: Network, choose: Callable[[list[str], int], str]) -> Network:
    """The network with each step as it is or rewritten.

    Args:
        choose: given the names of the rewrites that fit, and ``""``, and the step's place.
    """
    steps: list[Step] = []
    places = [0]  # where each value of the original is now
    for at, step in enumerate(network.steps):
        fitting = {name: parts for name, make in REWRITES.items() if (parts := make(step))}
        chosen = choose(["", *fitting], at)
        reads = tuple(places[value] for value in step.reads)
        if not chosen:
            steps.append(replace(step, reads=reads))
        else:
            for name, wanted, run, layer in fitting[chosen]:
                first = wanted in ((), (0,))
                # Value number len(steps) is the latest; -1 stands for it.
                mine = reads if first else tuple(len(steps) + 1 + back for back in wanted)
                steps.append(Step(name, mine, run, layer))
        places.append(len(steps))
    return Network(steps, [places[value] for value in network.outputs])
