"""A BatchNorm that raises behind, or in front of, its layer: the folded layer would answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bnfx.passes.fx.calls.modules import is_batch_norm

_HALVES = (torch.float16, torch.bfloat16)


def refuse_misfit(chain: Sequence[nn.Module], place: int) -> str | None:
    """Why the BatchNorm at a place of a chain does not fit the layers around it.

    One with a single feature would be a single number, which suits any layer.
    """
    norm = chain[place]
    if not is_batch_norm(norm):
        return None
    around = [(each, "out") for each in reversed(chain[:place]) if _has_channels(each)][:1]
    around += [(each, "in") for each in chain[place + 1 :] if _has_channels(each)][:1]
    for layer, side in around:
        kind = "features" if isinstance(layer, nn.Linear) else "channels"
        channels = getattr(layer, f"{side}_{kind}")
        if norm.num_features == 1 != channels:
            return f"it has one feature, and its layer {channels} {kind}"
        if not _work_together(norm, layer):
            return "its dtype is not that of its layer"
    return None


def _has_channels(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))


def _work_together(norm: nn.Module, layer: nn.Module) -> bool:
    """Whether both take what the other gives: float32 statistics suit half precision, too."""
    weights = {tensor.dtype for tensor in layer.parameters() if tensor.is_floating_point()}
    own = {t.dtype for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()}
    return own <= weights or (own == {torch.float32} and weights <= {*_HALVES})
