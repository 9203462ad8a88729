"""``y = (x - mean)/sqrt(var + eps)*gamma + beta``, with the gradient of shared statistics.

With ``xh = (x - mean)/sqrt(var + eps)``, ``g = dL/dy``, and n values a channel over all ranks::

    dL/dx     = (gamma*g - S0/n - xh*S1/n)/sqrt(var + eps)
    dL/dgamma = sum(g*xh)      dL/dbeta = sum(g)             over this rank, as for any parameter
    S0, S1    = sum(gamma*g), sum(gamma*g*xh)                over all ranks: the one collective

L is the sum of all ranks' losses. Several layers can share the collective. A *token* of no or one
element runs through forward and back through backward: it makes each collective depend on the one
before, so that no compiler can order them differently on different ranks.

Source: Ioffe, Szegedy, Batch Normalization (2015), for the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from bnfx.sync.collectives import AddUp, add_up
from bnfx.sync.diagnosis import compared
from bnfx.sync.identities.identity_backward import name_backward, of_one_layer_backward
from bnfx.sync.moments import along_channels, reduced_axes
from bnfx.sync.waiting import naming_layers

_EACH = 6  # tensors that a layer hands in: x, weight, bias, mean, invstd, total
_Layer = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, torch.Tensor]
_Pair = tuple[torch.Tensor, torch.Tensor]


class Normalise(torch.autograd.Function):
    """All layers' outputs, and the token:
    ``apply(name, what, names, identity, token, fresh, *tensors)``.

    ``identity`` stands for the layers, zero if that is not known: ranks of which each goes back
    through another layer raise. ``what`` says what peers have to have alike, if they are to compare
    it before each collective; ``names`` are those of the layers, for the message when a peer does
    not come. Weight and bias come in the dtype of the statistics. Differentiable any number of
    times in eager mode.
    """

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        what: str,
        names: str,
        identity: int,
        token: torch.Tensor,
        fresh: torch.Tensor,
        *tensors: Any,
    ) -> tuple[torch.Tensor, ...]:
        layers = [tensors[at : at + _EACH] for at in range(0, len(tensors), _EACH)]
        ctx.group_name, ctx.what, ctx.names, ctx.identity = name, what, names, identity
        ctx.save_for_backward(
            *(tensor for x, weight, _, *rest in layers for tensor in (x, weight, *rest))
        )
        return (*(_forward(*layer) for layer in layers), fresh)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        step = _EACH - 1
        layers = [cast(_Layer, saved[at : at + step]) for at in range(0, len(saved), step)]
        wanted = [
            ctx.needs_input_grad[at : at + 3] for at in range(6, 6 + _EACH * len(layers), _EACH)
        ]
        again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if again:  # the statistics are functions of x, too
            layers = [_differentiable(ctx.group_name, layer) for layer in layers]
        centred = [_centred(layer) for layer in layers]
        own = [_sums(*each) for each in zip(grads, layers, centred, strict=False)]
        token = grads[-1]
        parts = [part for each in zip(own, layers, strict=True) for part in _shared(*each)]
        start = token.numel()
        meets = any(needs[0] for needs in wanted)
        called = [name_backward(token, ctx.identity)] if meets and ctx.identity else []
        shared = torch.cat([token, *called, *parts])
        if meets:
            if torch.compiler.is_compiling():
                shared = _added_up(shared, ctx.group_name, ctx.what, again)
            else:
                with naming_layers(lambda: ctx.names, ctx.group_name):
                    shared = _added_up(shared, ctx.group_name, ctx.what, again)
            if called:
                checked = of_one_layer_backward(shared.detach(), start, ctx.names)
                shared = shared if again else checked
        sizes = [part.numel() for part in (*called, *parts)]
        fresh, *sums = torch.split(shared, [start, *sizes])
        sums = sums[len(called) :]
        result: list[Any] = [None, None, None, None, fresh, None]
        for place, (grad, layer, each, row, needs) in enumerate(
            zip(grads, layers, centred, own, wanted, strict=False)
        ):
            both = sums[2 * place], sums[2 * place + 1]
            result += _gradients(grad, layer, each, row, both, needs)
            result += [None] * 3
        return tuple(result)


class SharedStatistics(torch.autograd.Function):
    """``mean, 1/sqrt(var + eps)`` of x over all ranks, known already, with their gradient::

    dL/dx = G0/n - G1*(x - mean)/(n*sqrt(var + eps)^3)      G: dL/dmean, dL/dinvstd of all ranks
    """

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        x: torch.Tensor,
        mean: torch.Tensor,
        invstd: torch.Tensor,
        total: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.group_name = name
        ctx.save_for_backward(x, mean, invstd, total)
        return mean.clone(), invstd.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, mean, invstd, total = ctx.saved_tensors
        shared = AddUp.apply(torch.cat(grads), ctx.group_name)
        to_mean, to_invstd = (shared / total).chunk(2)
        mean, invstd = SharedStatistics.apply(ctx.group_name, x, mean, invstd, total)
        centred = x.to(mean.dtype) - along_channels(mean, x)
        slope = along_channels(to_invstd * invstd**3, x)
        return None, (along_channels(to_mean, x) - centred * slope).to(x.dtype), None, None, None


def _forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    total: torch.Tensor,
) -> torch.Tensor:
    scale = invstd if weight is None else invstd * weight
    out = x.to(mean.dtype) - along_channels(mean, x)
    out = out * along_channels(scale, x)
    if bias is not None:
        out = out + along_channels(bias, x)
    return out.to(x.dtype)


def _differentiable(name: str, layer: _Layer) -> _Layer:
    x, weight, mean, invstd, total = layer
    mean, invstd = SharedStatistics.apply(name, x, mean, invstd, total)
    return x, weight, mean, invstd, total


def _centred(layer: _Layer) -> torch.Tensor:
    x, _, mean, _, _ = layer
    return x.to(mean.dtype) - along_channels(mean, x)


def _sums(grad: torch.Tensor, layer: _Layer, centred: torch.Tensor) -> _Pair:
    """``sum(g), sum(g*xh)`` over this rank."""
    invstd, axes = layer[3], reduced_axes(grad)
    grad = grad.to(invstd.dtype)
    return grad.sum(axes), (grad * centred).sum(axes) * invstd


def _shared(own: _Pair, layer: _Layer) -> _Pair:
    """What peers need of :func:`_sums`: times gamma, should ranks differ in it."""
    weight = layer[1]
    return own if weight is None else (own[0] * weight, own[1] * weight)


def _added_up(row: torch.Tensor, name: str, what: str, again: bool) -> torch.Tensor:
    if again:
        return cast(torch.Tensor, AddUp.apply(row, name))
    if what:
        row = compared(row, f"way=backward; {what}", name)
    return add_up(row, name)


def _gradients(
    grad: torch.Tensor,
    layer: _Layer,
    centred: torch.Tensor,
    own: _Pair,
    shared: _Pair,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Of x, weight and bias, in their own dtypes."""
    x, weight, _, invstd, total = layer
    to_bias, to_weight = own
    if wanted[0]:
        first, second = shared[0] / total, shared[1] / total * invstd
        to_x = grad.to(invstd.dtype)
        if weight is not None:
            to_x = to_x * along_channels(weight, x)
        to_x = to_x - along_channels(first, x) - centred * along_channels(second, x)
        given = (to_x * along_channels(invstd, x)).to(x.dtype)
    else:
        given = None
    # A tuple: Dynamo in torch 2.11 adds no generator to a list.
    return given, to_weight if wanted[1] else None, to_bias if wanted[2] else None
