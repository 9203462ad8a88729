"""The content of tensors at one moment, compared with what they hold now.

A comparison of hundreds of small tensors costs by the call, not by the byte, so there are few
calls: on the CPU, small tensors are joined as bytes and samples of large ones gathered by NumPy
(several times as fast as ``torch.equal`` on each, ``bnfx.bench.check_cost``); on any other device
all are joined there, and one answer comes back (:mod:`bnfx.weights.changes.device_content`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from bnfx.weights.changes.device_content import DeviceContent

_WHOLE = 4096  # elements up to which a tensor is compared whole
_SAMPLE = 128  # elements compared of a larger one

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


# Elements that a native check compares: address, count, width and distance in bytes.
Piece = tuple[int, int, int, int]


class Content:
    """What of the content of tensors is compared: small ones whole, of large ones a sample.

    It shares their memory, so that a freed address can't come back as another tensor's.

    Args:
        tensors: of any dtype, on any device.
        everything: compare large ones whole, too.
        copies: of the tensors, with what they are to hold; by default, what they hold.
        check: when that of other devices than the CPU is looked at: the option ``check``.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        everything: bool,
        copies: Sequence[torch.Tensor] | None = None,
        check: str = "content",
    ) -> None:
        self._small: list[memoryview] = []
        self._samples: dict[Hashable, list[np.ndarray]] = {}
        self._large: list[torch.Tensor] = []
        self._large_were: list[torch.Tensor] = []
        small: list[bytes] = []
        samples: dict[Hashable, list[np.ndarray]] = {}
        elsewhere: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        with torch.inference_mode(False), torch.no_grad():
            for tensor, copy in zip(tensors, tensors if copies is None else copies, strict=True):
                view, were = _views(tensor, copy, everything)
                if not _is_on_host(view):
                    if check != "marks":
                        elsewhere.setdefault(view.device, []).append((view, were))
                elif view.dim() != 1 or view.numel() > _WHOLE or view.dtype not in _BITS.values():
                    self._large.append(view)
                    self._large_were.append(were.clone())
                else:
                    # Not view.numpy(), after which nobody may resize the tensor's storage.
                    array, held = np.from_dlpack(view), np.from_dlpack(were)
                    if view.is_contiguous():
                        self._small.append(array.data)
                        small.append(held.tobytes())
                    else:
                        self._samples.setdefault(view.dtype, []).append(array)
                        samples.setdefault(view.dtype, []).append(held)
            self._elsewhere = [
                DeviceContent(pairs, _WHOLE, waits=check == "content")
                for pairs in elsewhere.values()
            ]
        self._small_were = b"".join(small)
        self._samples_were = [np.concatenate(some).tobytes() for some in samples.values()]

    def is_same(self) -> bool:
        """Whether what is compared holds what it held."""
        return (
            b"".join(self._small) == self._small_were
            and all(
                np.concatenate(some).tobytes() == were
                for some, were in zip(self._samples.values(), self._samples_were, strict=True)
            )
            and self.rest_is_same()
        )

    def rest_is_same(self) -> bool:
        """The same, of what :meth:`pieces` leaves out."""
        return all(map(torch.equal, self._large, self._large_were)) and all(
            device.is_same() for device in self._elsewhere
        )

    @property
    def has_rest(self) -> bool:
        """Whether :meth:`pieces` leaves anything out: whole large tensors, other devices."""
        return bool(self._large or self._elsewhere)

    def pieces(self) -> tuple[list[Piece], bytes]:
        """What is compared on the host, and what it held, one after the other."""
        small: list[Any] = [view.obj for view in self._small]  # the arrays
        samples = [array for arrays in self._samples.values() for array in arrays]
        pieces = [
            (array.ctypes.data, array.size, array.itemsize, array.strides[0])
            for array in (*small, *samples)
        ]
        return pieces, b"".join([self._small_were, *self._samples_were])


def same_bits(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    """Whether a tensor holds what its copy does, to the last element."""
    bits = _BITS.get(tensor.itemsize, tensor.dtype)
    return torch.equal(tensor.view(bits), copy.view(bits))


def _is_on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _views(
    tensor: torch.Tensor, copy: torch.Tensor, whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is compared of a tensor, and the same of its copy.

    All of a small tensor, evenly spread elements of a large one; of one dimension, unless there are
    gaps in the tensor's memory. Inference tensors count no versions, so they are compared whole.
    """
    pair = tensor.detach(), copy.detach()
    count = tensor.numel()
    if tensor.is_contiguous() or (
        tensor.dim() in (4, 5)
        and tensor.is_contiguous(
            memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
        )
    ):
        step = 1
        if count > _WHOLE and not whole and not tensor.is_inference():
            # A stride with no factor in common with the size meets every place of every axis in
            # turn; else the sample might be the first tap of each filter, and nothing else.
            step = next(s for s in range(count // _SAMPLE, 0, -1) if math.gcd(s, count) == 1)
            count = _SAMPLE
        # A copy of such a tensor has its elements in the same order.
        pair = pair[0].as_strided((count,), (step,)), pair[1].as_strided((count,), (step,))
    if tensor.itemsize in _BITS:  # as integers, so that NaN equals itself
        bits = _BITS[tensor.itemsize]
        return pair[0].view(bits), pair[1].view(bits)
    return pair
