"""Parameters with which float64 is exact, so that a right rewrite gives the very same bits.

Weights, gamma, beta and means are small integers, and ``var + eps`` is a power of four, as float64
adds them; so ``1 / sqrt(var + eps)`` is a power of two. Inputs are small integers, too.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import torch
from battery.conv import Case
from torch import nn
from torch.nn.modules.conv import _ConvNd

from bnfx.passes.fx.calls.modules import is_batch_norm

POWERS = (0.25, 1.0, 4.0, 16.0)


def variance(power: float, eps: float) -> float:
    """The number to which float64 adds ``eps`` to make ``power``."""
    start = power - eps
    near = (start, math.nextafter(start, math.inf), math.nextafter(start, -math.inf))
    found = next((value for value in near if value + eps == power), None)
    return power - eps if found is None else found


def whole(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every number of a float64 ``model`` another, whole or a power of two; none is zero but
    in weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(like: torch.Tensor, low: int = -3, high: int = 3) -> torch.Tensor:
        return torch.randint(low, high + 1, like.shape, generator=generator).double()

    def powers(like: torch.Tensor) -> torch.Tensor:
        """Signed where ``like`` is; models divide by them, or need their signs."""
        sizes = 2.0 ** integers(like, 0, 2)
        return sizes * torch.where(like < 0, -1.0, 1.0)

    def variances(like: torch.Tensor, eps: float) -> torch.Tensor:
        chosen = torch.randint(len(POWERS), like.shape, generator=generator)
        values = [variance(POWERS[at], eps) for at in chosen.tolist()]
        return torch.tensor(values, dtype=torch.float64)

    with torch.no_grad():
        for module in model.modules():
            weights = isinstance(module, nn.Linear | _ConvNd) or is_batch_norm(module)
            own = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
            for name, tensor in itertools.chain(*own):
                if not tensor.is_floating_point() or name in ("sign", "mask"):
                    continue
                if name.endswith("var"):
                    tensor.copy_(variances(tensor, getattr(module, "eps", 1e-5)))
                else:
                    tensor.copy_(integers(tensor) if weights or "mean" in name else powers(tensor))
    return model


def fresh(case: Case) -> tuple[Case, torch.Tensor]:
    """The case with whole numbers, and an input of such."""
    model = whole(copy.deepcopy(case.model).eval().double())
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, case.shape, generator=generator).double()
    return replace(case, model=model), x
