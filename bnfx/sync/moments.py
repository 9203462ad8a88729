"""Count, mean and M2 of a batch: taken on one rank, merged over ranks, noted as running statistics.

M2 is the sum of squared differences from the mean. Never ``E[x^2] - E[x]^2``: in float32, a mean of
1e4 and a standard deviation of 0.1 make that 16, where the variance is 0.01.

Source: Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance (1983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Moments:
    """Of the batch of one rank.

    Args:
        count: number of values a channel.
        mean: shape ``(C,)``; zero where ``count`` is.
        m2: the sum of squared differences from the mean, shape ``(C,)``.
    """

    count: int | torch.SymInt
    mean: torch.Tensor
    m2: torch.Tensor

    def row(self) -> torch.Tensor:
        """As one vector of ``1 + 2C``."""
        return torch.cat([self.mean.new_full((1,), self.count), self.mean, self.m2])


@dataclass(frozen=True)
class Statistics:
    """Of the batch over all ranks.

    Args:
        total: number of values a channel, shape ``(1,)``.
        mean: shape ``(C,)``; zero where ``total`` is.
        var: the biased variance, shape ``(C,)``; zero where ``total`` is.
    """

    total: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor


def reduced_axes(x: torch.Tensor) -> list[int]:
    """All axes but that of channels."""
    return [0, *range(2, x.dim())]


def along_channels(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``(C,)`` as ``(1, C, 1, ...)``, to be broadcast against ``x``."""
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def local_moments(x: torch.Tensor, dtype: torch.dtype) -> Moments:
    """Count, mean and M2 of each channel of one rank's ``x``.

    With ``d = x - s`` for a first estimate ``s`` of the mean::

        mean = s + sum(d)/n        M2 = sum(d^2) - sum(d)^2/n

    so that the rounding of ``s`` cancels. An empty batch has a mean and an M2 of zero.

    Args:
        x: shape ``(N, C, ...)``, any number of values, none too.
        dtype: to compute in, and of the result.
    """
    axes = reduced_axes(x)
    count: Any = math.prod([x.shape[axis] for axis in axes])  # Dynamo takes no generator
    # Dynamo makes a sym_max of the first; that of torch 2.11 takes no sym_max of plain numbers.
    divisor = max(count, 1) if isinstance(count, int) else torch.sym_max(count, 1)
    x = x.to(dtype)
    start = x.sum(axes) / divisor
    centred = x - along_channels(start, x)
    rest = centred.sum(axes) / divisor
    m2 = (centred * centred).sum(axes) - rest * rest * count
    return Moments(count, start + rest, m2.clamp(min=0))


def merge(moments: torch.Tensor) -> Statistics:
    """The statistics of all ranks from the moments of each, weighed by their counts.

    Chan's formula for many parts, about a first estimate of the mean for the reason given in
    :func:`local_moments`::

        mean = sum(n_r mean_r)/n      var = (sum(M2_r) + sum(n_r (mean_r - mean)^2))/n

    Args:
        moments: shape ``(ranks, 1 + 2C)``.
    """
    channels = (moments.shape[1] - 1) // 2
    counts, means, m2s = torch.split(moments, [1, channels, channels], dim=1)
    total = counts.sum(0)
    divisor = total.clamp(min=1)
    weights = counts / divisor
    start = (weights * means).sum(0)
    offsets = means - start
    rest = (weights * offsets).sum(0)
    var = m2s.sum(0) / divisor + (weights * offsets * offsets).sum(0) - rest * rest
    return Statistics(total, start + rest, var.clamp(min=0))


def updated(
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    momentum: float | torch.Tensor,
    statistics: Statistics,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(1 - momentum)*running + momentum*new``, as BatchNorm notes it, in the running dtype.

    The new variance is the unbiased one, ``M2/(n - 1)``. It is undefined for a single value, which
    therefore leaves ``running_var`` as it is; no value at all leaves both.
    """
    total, mean, var = statistics.total, statistics.mean, statistics.var
    unbiased = var * (total / (total - 1).clamp(min=1))
    results = []
    for running, new, least in ((running_mean, mean, 1), (running_var, unbiased, 2)):
        factor = momentum * (total >= least).to(total.dtype)
        results.append((running * (1 - factor) + new * factor).to(running.dtype))
    return results[0], results[1]
