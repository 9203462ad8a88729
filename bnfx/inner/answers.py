"""Whether a compiler's answer is PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

# Of the largest number of an answer. The operators were tested one by one: what is looked for here
# is a kernel that is wrong, not a rounding that differs.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float16: 1e-2,
    torch.float32: 1e-4,
    torch.float64: 1e-9,
}
# An error so many times as large as PyTorch's is another order of the same sums.
MOST_WORSE = 16


def difference(
    ours: torch.Tensor,
    theirs: torch.Tensor,
    allowed: Mapping[torch.dtype, float] = TOLERANCE,
) -> str | None:
    """How two answers differ, if they do.

    Args:
        allowed: dtype -> largest error, relative to the largest number; none for other dtypes.
    """
    for name in ("shape", "dtype", "device"):
        one, other = getattr(ours, name), getattr(theirs, name)
        if one != other:
            return f"{name} {one} instead of {other}"
    strides = zip(ours.stride(), theirs.stride(), theirs.shape, strict=True)
    if any(one != other for one, other, size in strides if size > 1):
        return f"strides {ours.stride()} instead of {theirs.stride()}"
    tolerance = allowed.get(theirs.dtype)
    if tolerance is None:
        return None if torch.equal(ours, theirs) else "other numbers"
    usual = theirs.isfinite()
    if not torch.equal(usual, ours.isfinite()):
        return "infinite or not a number in other places"
    if not torch.equal(ours[~usual].nan_to_num(0.0), theirs[~usual].nan_to_num(0.0)):
        return "infinite with another sign"
    one, other = ours[usual].double(), theirs[usual].double()
    if not other.numel():
        return None
    error, scale = float((one - other).abs().max()), float(other.abs().max())
    return None if error <= tolerance * scale else f"{error:.2g} away, of {scale:.2g}"


def no_worse(
    ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]
) -> bool:
    """Whether answers that differ are still as near to the exact ones as PyTorch's are.

    Where an answer is what is left of numbers that cancel, its own size says nothing of how large
    rounding errors are; PyTorch's error does.

    Args:
        exact: the same, computed in float64.
    """
    return all(map(_is_no_worse, ours, theirs, exact))


def _is_no_worse(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> bool:
    if difference(ours, theirs) is None:
        return True
    if difference(ours, theirs, dict.fromkeys(TOLERANCE, math.inf)) is not None:
        return False  # in more than the size of numbers
    usual = theirs.isfinite()
    right = exact[usual].double()
    one, other = ((x[usual].double() - right).abs().max() for x in (ours, theirs))
    return bool(one <= MOST_WORSE * other)
