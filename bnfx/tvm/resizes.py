"""How programs are decomposed for TVM: resizes that its importer gets wrong become indexing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import get_decompositions

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Those of ``torch.export``, and one for each resize that TVM's importer gets wrong.

    It takes a scale for the ratio of the sizes, which it is only where that is a whole number, and
    rounds where nearest neighbours are counted down.
    """
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    for op in (aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec):
        by_index = get_decompositions([op])[op]

        def resize(
            x: torch.Tensor,
            size: Sequence[int] | None,
            *rest: Any,
            by_index: Callable[..., Any] = by_index,
            nearest: bool = op is aten.upsample_nearest2d.vec,
        ) -> Any:
            scales = rest[-1]
            if scales is None:
                exact = not nearest or all(
                    out % n == 0 for out, n in zip(size or (), x.shape[2:], strict=True)
                )
            else:
                exact = all(float(scale).is_integer() for scale in scales)
            return NotImplemented if exact else by_index(x, size, *rest)

        table[op] = resize
    return table
