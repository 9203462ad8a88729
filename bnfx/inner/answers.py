"""Whether a compiler's answer is PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Of the largest number of an answer. The operators were tested one by one: what is looked for here
# is a kernel that is wrong, not a rounding that differs.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float16: 1e-2,
    torch.float32: 1e-4,
    torch.float64: 1e-9,
}


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
