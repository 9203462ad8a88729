"""What a set of parameters looked like when it was folded, and whether it still does.

No single sign shows every write. Identity shows another tensor, ``data_ptr`` shows ``p.data = t``,
``_version`` shows in-place writes that autograd sees. Fused optimizers, eager BatchNorm training,
collectives and ``p.data.mul_()`` move none of these; they show in the *content*: small tensors
(all BatchNorm vectors) are compared whole, large ones on a sample, and a hook sees each optimizer
step (:mod:`bnfx.weights.writes`). A write that touches a few elements of a large tensor through
``.data`` or a foreign library shows nowhere, unless ``BNFX_CHECK_CONTENT=1`` asks for a comparison
of everything at each call; else :func:`bnfx.refresh` is for that.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bnfx.weights.writes import epoch, watch_optimizers, written_since

_WHOLE = 4096  # elements up to which a tensor is compared whole
_SAMPLE = 128  # elements compared of a larger one

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_data_ptr = torch.Tensor.data_ptr
_version = operator.attrgetter("_version")


class Snapshot:
    """What tensors looked like at one moment; answers whether they still do.

    Holds views of their memory, so that a freed address can't come back as another tensor's. It
    holds no weak references: ``torch.utils.swap_tensors`` refuses tensors that have one.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        watch_optimizers()
        self._epoch = epoch()
        self._ids = list(map(id, tensors))
        self._addresses = list(map(_data_ptr, tensors))
        # Inference tensors count no versions, and the same tensor stays what it is.
        self._counting = [at for at, tensor in enumerate(tensors) if not tensor.is_inference()]
        self._versions = self._versions_of(tensors)
        everything = os.environ.get("BNFX_CHECK_CONTENT", "0") not in ("", "0")
        with torch.inference_mode(False), torch.no_grad():
            self._views = [_view(tensor, everything) for tensor in tensors]
            self._copies = [view.clone() for view in self._views]

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors."""
        return self._ids == list(map(id, tensors))

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors and nothing was written to them since."""
        if not (
            self.is_of(tensors)
            and self._addresses == list(map(_data_ptr, tensors))
            and self._versions == self._versions_of(tensors)
        ):
            return False
        now = epoch()
        if written_since(tensors, self._epoch):
            return False
        self._epoch = now  # so that steps of other models are looked at once
        return self.same_content()

    def same_content(self) -> bool:
        """Whether what is compared of the memory holds what it held."""
        return all(map(torch.equal, self._views, self._copies))

    def _versions_of(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        if len(self._counting) != len(tensors):
            tensors = [tensors[at] for at in self._counting]
        return list(map(_version, tensors))


@dataclass(frozen=True)
class Moment:
    """Parameters, and the numbers beside them, as they were when something was derived from them.

    Args:
        snapshot: of the parameters.
        scalars: Python numbers that arrive at run time, such as ``eps`` under ``dynamic=True``.
    """

    snapshot: Snapshot
    scalars: tuple[float, ...]

    def is_of(self, tensors: Sequence[torch.Tensor], scalars: tuple[float, ...]) -> bool:
        """Whether it is a moment of this very set."""
        return self.scalars == scalars and self.snapshot.is_of(tensors)

    def holds(self, tensors: Sequence[torch.Tensor], scalars: tuple[float, ...]) -> bool:
        """Whether nothing has changed since."""
        return self.scalars == scalars and self.snapshot.holds(tensors)


def _view(tensor: torch.Tensor, whole: bool) -> torch.Tensor:
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
    if count > _WHOLE and dense and not whole and not tensor.is_inference():
        # A stride with no factor in common with the size meets every place of every axis in turn;
        # else the sample might be the first tap of each filter, and nothing else.
        stride = next(s for s in range(count // _SAMPLE, 0, -1) if math.gcd(s, count) == 1)
        tensor = tensor.as_strided((_SAMPLE,), (stride,))
    # As integers, so that NaN equals itself.
    return tensor.view(_BITS[tensor.itemsize]) if tensor.itemsize in _BITS else tensor
