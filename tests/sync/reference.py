"""The truth: local BatchNorm over the concatenated batch of all ranks, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F


@dataclass
class Outcome:
    """What a training step of one BatchNorm leaves behind, for one rank."""

    output: torch.Tensor
    grad_input: torch.Tensor
    grad_weight: torch.Tensor | None
    grad_bias: torch.Tensor | None
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None


def loss_of(output: torch.Tensor, rank: int) -> torch.Tensor:
    """A loss that depends on the place of each value: a plain sum has a gradient of zero in x."""
    places = torch.arange(output.numel(), dtype=torch.float64).view(output.shape)
    weights = torch.cos(1.7 * places + rank)
    return (weights * output.double() + 0.3 * output.double() ** 2).sum()


def truth(
    batches: Sequence[torch.Tensor],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Outcome:
    """This rank's share of what one process does with all ranks' batches."""
    rank = dist.get_rank()
    parts = [batch.detach().double().requires_grad_() for batch in batches]
    gamma, beta = (
        None if t is None else t.detach().double().requires_grad_() for t in (weight, bias)
    )
    mean, var = (
        None if t is None else t.detach().double().clone() for t in (running_mean, running_var)
    )
    output = F.batch_norm(torch.cat(parts), mean, var, gamma, beta, True, momentum, eps)
    outputs = output.split([len(part) for part in parts])
    own = loss_of(outputs[rank], rank)
    total = sum(loss_of(each, i) for i, each in enumerate(outputs))
    # Of weight and bias, a rank has its share: the gradient of its own loss with statistics fixed,
    # plus nothing, since they come after the statistics.
    shares = [
        torch.autograd.grad(own, t, retain_graph=True)[0] if t is not None else None
        for t in (gamma, beta)
    ]
    (grad,) = torch.autograd.grad(total, parts[rank])
    return Outcome(outputs[rank].detach(), grad, shares[0], shares[1], mean, var)


def step(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
) -> Outcome:
    """The same through ``function(x, running_mean, running_var, weight, bias)`` on this rank."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    gamma, beta = (
        None if t is None else t.detach().clone().requires_grad_() for t in (weight, bias)
    )
    mean, var = (None if t is None else t.clone() for t in (running_mean, running_var))
    output = function(x, mean, var, gamma, beta)
    loss_of(output, dist.get_rank()).backward()
    assert x.grad is not None
    grads = [None if t is None else t.grad for t in (gamma, beta)]
    return Outcome(output.detach(), x.grad, grads[0], grads[1], mean, var)


def assert_same(actual: Outcome, expected: Outcome, tolerance: float) -> None:
    """Each part within ``tolerance``, relative to its largest value (or 1: parts can cancel)."""
    for name, right in vars(expected).items():
        value = getattr(actual, name)
        assert (value is None) == (right is None), name
        if right is None or right.numel() == 0:
            continue
        assert torch.isfinite(value).all(), name
        assert value.shape == right.shape, name
        error = float((value.double() - right).abs().max() / right.abs().max().clamp(min=1))
        assert error <= tolerance, f"{name}: {error:.2e} is above {tolerance:.0e}"
