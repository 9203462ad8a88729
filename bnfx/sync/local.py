"""A local BatchNorm for any number of dimensions: what a SyncBatchNorm may revert to."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.passes.fx.calls.modules import register_batch_norm


class BatchNorm(_BatchNorm):
    """``nn.BatchNorm1d``, ``2d`` and ``3d`` in one: an input of shape ``(N, C, ...)``."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if isinstance(input, torch.Tensor) and input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, not {input.dim()}")


register_batch_norm(BatchNorm)
