"""Rewrites of a network into others that compute the same, each by one rule of algebra."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from fuzz.network import Network, Step
from fuzz.programs import LAYER
from torch import nn


@dataclass(frozen=True)
class Old:
    """A value of the network as it was."""

    value: int


@dataclass(frozen=True)
class Part:
    """A step in the stead of another.

    Args:
        reads: the part before (-1), those further back (-2, ...), and old values.
    """

    code: str
    reads: tuple[Old | int, ...]
    layer: nn.Module | nn.Parameter | None = None


Rewrite = Callable[[Step, Network], list[Part] | None]


def _reads(step: Step) -> tuple[Old, ...]:
    return tuple(map(Old, step.reads))


def split_channels(step: Step, network: Network) -> list[Part] | None:
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
        halves.append(Part(LAYER, _reads(step), half))
    return [*halves, Part("torch.cat([{0}, {1}], 1)", (-2, -1))]


_BY_HAND = (
    "({0} - {layer}.running_mean.view(1, -1, 1, 1))"
    " / torch.sqrt({layer}.running_var.view(1, -1, 1, 1) + {layer}.eps)"
    " * {layer}.weight.view(1, -1, 1, 1) + {layer}.bias.view(1, -1, 1, 1)"
)


def by_hand(step: Step, network: Network) -> list[Part] | None:
    """A BatchNorm as people write it out."""
    if not isinstance(step.layer, nn.BatchNorm2d):
        return None
    return [Part(_BY_HAND, _reads(step), step.layer)]


def permuted(step: Step, network: Network) -> list[Part]:
    """The step, and its value turned to channels last and back."""
    return [
        Part(step.code, _reads(step), step.layer),
        Part("{0}.permute(0, 2, 3, 1)", (-1,)),
        Part("{0}.permute(0, 3, 1, 2)", (-1,)),
    ]


def _times(conv: nn.Module, factor: float) -> nn.Module:
    """A linear layer with other weights."""
    other = copy.deepcopy(conv)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(factor)
    return other


def _is_linear(step: Step) -> bool:
    return isinstance(step.layer, nn.Conv2d | nn.ConvTranspose2d)


def scaled(step: Step, network: Network) -> list[Part] | None:
    """A convolution with half of its weights, and twice its value."""
    if not _is_linear(step) or not isinstance(step.layer, nn.Module):
        return None
    return [Part(LAYER, _reads(step), _times(step.layer, 0.5)), Part("{0} * 2.0", (-1,))]


def negated(step: Step, network: Network) -> list[Part] | None:
    """The negative of a convolution with negative weights."""
    if not _is_linear(step) or not isinstance(step.layer, nn.Module):
        return None
    return [Part(LAYER, _reads(step), _times(step.layer, -1.0)), Part("-{0}", (-1,))]


def in_two(step: Step, network: Network) -> list[Part] | None:
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
    return [Part(LAYER, _reads(step), reverse), Part(LAYER, (-1,), turned)]


def _without_constant(layer: nn.Module) -> nn.Module:
    """The layer without what it adds."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        if isinstance(other.bias, nn.Parameter):
            other.bias.zero_()
        if isinstance(other, nn.BatchNorm2d) and other.running_mean is not None:
            other.running_mean.zero_()
    return other


def summed(step: Step, network: Network) -> list[Part] | None:
    """A convolution as a sum of two."""
    if not isinstance(step.layer, nn.Conv2d):
        return None
    most, rest = _times(step.layer, 0.75), _times(step.layer, 0.25)
    return [
        Part(LAYER, _reads(step), most),
        Part(LAYER, _reads(step), rest),
        Part("{0} + {1}", (-2, -1)),
    ]


def doubled(step: Step, network: Network) -> list[Part] | None:
    """A layer as the mean of two that are alike."""
    if not isinstance(step.layer, nn.Module):
        return None
    twin = copy.deepcopy(step.layer)
    return [
        Part(LAYER, _reads(step), step.layer),
        Part(LAYER, _reads(step), twin),
        Part("({0} + {1}) / 2", (-2, -1)),
    ]


def distributed(step: Step, network: Network) -> list[Part] | None:
    """A layer of a sum as the sum of it and of its linear part."""
    if not isinstance(step.layer, nn.Module) or not step.reads[0]:
        return None
    source = network.steps[step.reads[0] - 1]
    if source.code != "{0} + {1}":
        return None
    one, other = _reads(source)
    return [
        Part(LAYER, (one,), step.layer),
        Part(LAYER, (other,), _without_constant(step.layer)),
        Part("{0} + {1}", (-2, -1)),
    ]


REWRITES: dict[str, Rewrite] = {
    "split channels": split_channels,
    "by hand": by_hand,
    "permuted": permuted,
    "scaled": scaled,
    "negated": negated,
    "in two": in_two,
    "summed": summed,
    "doubled": doubled,
    "distributed": distributed,
}
TWICE = "twice"  # each reader gets a copy of its own: of the step itself


def rewritten(network: Network, choose: Callable[[Sequence[str], int], str]) -> Network:
    """The network with each step as it is or rewritten.

    Args:
        choose: given the names of the rewrites that fit, and ``""``, and the step's place.
    """
    steps: list[Step] = []
    places: list[list[int]] = [[0]]  # where each value of the original is now, in turn

    def place(value: int) -> int:
        found = places[value].pop(0)
        places[value].append(found)
        return found

    for at, step in enumerate(network.steps):
        fitting = {name: parts for name, make in REWRITES.items() if (parts := make(step, network))}
        chosen = choose(["", TWICE, *fitting], at)
        plain = [Part(step.code, _reads(step), step.layer)]
        found = []
        for parts in [plain] * 2 if chosen == TWICE else [fitting.get(chosen, plain)]:
            for part in parts:
                reads = tuple(
                    place(each.value) if isinstance(each, Old) else len(steps) + 1 + each
                    for each in part.reads
                )
                steps.append(Step(part.code, reads, copy.deepcopy(part.layer)))
            found.append(len(steps))
        places.append(found)
    return Network(steps, [places[value][0] for value in network.outputs])
