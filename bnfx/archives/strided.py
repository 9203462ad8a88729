"""Tensors over memory that was read, within its bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from bnfx.archives.refused import RefusedError

_EXPANDED = 1 << 26  # bytes that a tensor may seem to have beyond those that it is stored in


def strided(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: Any,
    size: Sequence[Any],
    stride: Sequence[Any],
) -> torch.Tensor:
    """A view of ``storage``.

    Raises:
        RefusedError: if it reaches beyond its bytes, or would be far larger than they are when it
            is copied.
    """
    if len(size) > 32:
        raise RefusedError("one of its tensors has too many dimensions")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise RefusedError("one of its tensors has no size")
    count = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else -1
    if (offset + last + 1) * dtype.itemsize > storage.nbytes():
        raise RefusedError("one of its tensors is longer than its bytes")
    if count * dtype.itemsize > storage.nbytes() + _EXPANDED:
        raise RefusedError("one of its tensors is far larger than its bytes")
    return torch.empty(0, dtype=dtype).set_(storage, offset, tuple(size), tuple(stride))
