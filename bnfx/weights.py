"""Folded weights are never stale: what a set of parameters looked like when it was folded.

No single sign shows every write. Identity shows another tensor, ``data_ptr`` shows ``p.data = t``,
``_version`` shows in-place writes that autograd sees. Fused optimizers, eager BatchNorm training,
collectives and ``p.data.mul_()`` move none of these; they show in the *content*: small tensors
(all BatchNorm vectors) are compared whole, large ones on a sample, and a hook counts what each
optimizer step writes. A write that touches a few elements of a large tensor through ``.data`` or
a foreign library shows nowhere: :func:`refresh` is for that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

_WHOLE = 4096  # elements up to which a tensor is compared whole
_SAMPLE = 128  # elements compared of a larger one

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_refreshed = 0  # how often refresh() was called
_stepped: dict[int, int] = {}  # id of a parameter -> optimizer steps that may have written it


def refresh(compiled: Any = None) -> None:
    """Fold again at the next call, after a write that leaves no trace.

    Needed only after writes to a *few elements* of a convolution's or linear layer's weight that
    bypass autograd, such as ``conv.weight.data[0, 0] = 1`` or a write through NumPy; everything
    else is noticed.

    Args:
        compiled: what ``torch.compile`` returned. At present every compiled model is refreshed,
            whichever is named, and all without an argument: it costs one refold each.

    Raises:
        TypeError: for something that was not compiled.
    """
    if not (
        compiled is None
        or hasattr(compiled, "_orig_mod")
        or hasattr(compiled, "_torchdynamo_orig_callable")
        or getattr(compiled, "_compiled_call_impl", None) is not None
    ):
        kind = type(compiled).__name__
        raise TypeError(f"bnfx.refresh takes what torch.compile returned, not an uncompiled {kind}")
    global _refreshed
    _refreshed += 1


@functools.cache
def watch_optimizers() -> None:
    """Count the steps of every optimizer from now on, for each parameter."""
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Ids are reused after a tensor dies: at worst, something is folded once too often.
            _stepped[id(parameter)] = _stepped.get(id(parameter), 0) + 1


class Snapshot:
    """What tensors looked like at one moment; answers whether they still do.

    Holds views of their memory, so that a freed address can't come back as another tensor's. It
    holds no weak references: ``torch.utils.swap_tensors`` refuses tensors that have one.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        watch_optimizers()
        self._ids = list(map(id, tensors))
        self._signs = self._signs_of(tensors)
        with torch.inference_mode(False), torch.no_grad():
            self._views = [_sample(tensor) for tensor in tensors]
            self._copies = [view.clone() for view in self._views]

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors."""
        return self._ids == list(map(id, tensors))

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors and nothing was written to them since."""
        return (
            self.is_of(tensors)
            and self._signs == self._signs_of(tensors)
            and all(map(torch.equal, self._views, self._copies))
        )

    @staticmethod
    def _signs_of(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        return (
            _refreshed,
            [tensor.data_ptr() for tensor in tensors],
            [-1 if tensor.is_inference() else tensor._version for tensor in tensors],
            [_stepped.get(id(tensor), 0) for tensor in tensors],
        )


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """A view on the tensor's memory: all of a small tensor, evenly spread elements of a large one.

    Inference tensors count no versions, so they are compared whole.
    """
    tensor = tensor.detach()
    count = tensor.numel()
    dense = tensor.is_contiguous() or (
        tensor.dim() in (4, 5)
        and tensor.is_contiguous(
            memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
        )
    )
    if count > _WHOLE and dense and not tensor.is_inference():
        # A stride with no factor in common with the size meets every place of every axis in turn;
        # else the sample might be the first tap of each filter, and nothing else.
        stride = next(s for s in range(count // _SAMPLE, 0, -1) if math.gcd(s, count) == 1)
        tensor = tensor.as_strided((_SAMPLE,), (stride,))
    # As integers, so that NaN equals itself.
    return tensor.view(_BITS[tensor.itemsize]) if tensor.itemsize in _BITS else tensor
