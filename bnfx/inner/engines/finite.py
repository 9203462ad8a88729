"""Whether all numbers that an engine is given are finite: others are PyTorch's to answer for.

They are summed: an infinity or a NaN shows in the sum. (So may finite numbers whose sum overflows;
those go to PyTorch as well.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bnfx.inner.engines.built import shared
from bnfx.native import loader


def usual(args: Sequence[Any]) -> bool:
    """Whether the numbers of all tensors among these are finite, and their sums too."""
    return all(
        _has_finite_sum(value)
        for value in args
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )


def _has_finite_sum(value: torch.Tensor) -> bool:
    native = loader.state().module
    if native is not None:
        found: bool | None = native.sum_is_finite(value)
        if found is not None:
            return found
    return in_python(value)


def in_python(value: torch.Tensor) -> bool:
    """By NumPy where it can: threads of PyTorch spin after a sum, and slow the engine down."""
    if value.dtype in (torch.float32, torch.float64) and value.device.type == "cpu":
        with np.errstate(all="ignore"):
            return bool(np.isfinite(shared(value.detach().resolve_neg()).sum()))
    return bool(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)).isfinite())
