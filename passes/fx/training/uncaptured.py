"""Stands in a captured graph for a BatchNorm in training that Dynamo could not capture.

:mod:`~bnfx.passes.fx.training.synchronise` swaps it as it swaps ``F.batch_norm``. It differs in
what it takes: a batch of one value a channel, and a momentum that is a tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bnfx.passes.fx.facts.spelling import FUNCTIONS


def batch_norm_to_swap(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float | torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """``F.batch_norm`` of a local batch, with all arguments in its order; ``training`` is true."""
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            axes, count = [0, *range(2, input.dim())], input.numel() // input.shape[1]
            var, mean = torch.var_mean(input, axes, correction=0)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return torch.batch_norm(input, weight, bias, None, None, training, 0.0, eps, False)


# Another way to write it, with the same arguments.
FUNCTIONS[batch_norm_to_swap] = FUNCTIONS[F.batch_norm]
