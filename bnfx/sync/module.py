"""``bnfx.SyncBatchNorm``: the module."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.errors import SyncWarning
from bnfx.options import check_process_group
from bnfx.passes.fx.calls.modules import register_batch_norm
from bnfx.passes.user_warnings import warn
from bnfx.sync.diagnosis import note_evaluation
from bnfx.sync.functional import Layer, normalise
from bnfx.sync.group import is_recomputing, peers_of
from bnfx.sync.joining import UNEVEN, is_joining


class SyncBatchNorm(_BatchNorm):
    """BatchNorm for any number of dimensions, with the statistics of all ranks in training.

    The parameters, buffers and ``state_dict`` of ``nn.BatchNorm2d``. In training it computes
    :func:`bnfx.sync_batch_norm`; where there are no peers, and in evaluation, it is local and never
    communicates (in evaluation without running statistics, it normalises by the local batch, as
    torch's does). A forward inside a backward pass is a recomputation, as of activation
    checkpointing: it communicates, but leaves the running statistics alone.

    It is no subclass of ``torch.nn.SyncBatchNorm``, which DDP refuses on CPU.

    Args:
        num_features: C, for an input of shape ``(N, C, ...)``.
        eps, momentum, affine, track_running_stats: as of ``nn.BatchNorm2d``; ``momentum=None``
            keeps the cumulative average.
        process_group: whose ranks share statistics; ``None`` for the default group. ``deepcopy``
            keeps it as it is; it cannot be pickled.
        device, dtype: of parameters and buffers.

    Raises:
        OptionError: if ``process_group`` is not a process group.
    """

    # The class that convert_sync_batchnorm found, which revert_sync_batchnorm gives back.
    local_class: type[_BatchNorm] | None = None
    # Its path in the model, for the messages of BNFX_SYNC_DEBUG.
    path: str = ""
    # What ranks tell layers apart by; see bnfx.sync.identities.identity.
    identity: int = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        check_process_group(process_group)
        self.process_group = process_group

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if self.local_class is not None:
            self.local_class._check_input_dim(self, input)  # type: ignore[no-untyped-call]
        elif input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, not {input.dim()}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(N, C, ...)`` -> the same shape, dtype and layout."""
        if not isinstance(input, fx.Proxy):
            self._check_input_dim(input)
        if not self.training:
            note_evaluation(self.path)
            local = self.running_mean is None
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                local,
                0.0,
                self.eps,
            )
        peers = peers_of(self.process_group)
        if peers is not None and not torch.compiler.is_compiling() and is_joining():
            warn(f"{self.path or 'a SyncBatchNorm'} trains where {UNEVEN}", SyncWarning)
        mean, var, momentum = tracked(self)
        affine = self.weight, self.bias
        layer = Layer(input, mean, var, *affine, momentum, self.eps, self.path, self.identity)
        return normalise(layer, peers)

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        memo[id(self.process_group)] = self.process_group
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone


def tracked(module: _BatchNorm) -> tuple[Any, Any, float | torch.Tensor]:
    """What a BatchNorm in training does first: count the batch.

    Returns:
        The running statistics to update, or ``None`` twice, and their momentum.
    """
    mean, var, count = module.running_mean, module.running_var, module.num_batches_tracked
    if not module.track_running_stats or mean is None or var is None:
        return None, None, 0.0
    if not torch.compiler.is_compiling() and is_recomputing():
        mean, var = mean.clone(), var.clone()  # as many tensors as the first time
    elif count is not None:
        count.add_(1)
    if module.momentum is None:
        return mean, var, 0.0 if count is None else 1.0 / count
    return mean, var, module.momentum


register_batch_norm(SyncBatchNorm)
