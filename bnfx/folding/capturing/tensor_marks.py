"""Example tensors stay as they are: torch leaves marks on them of which sizes it left open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

_MARK = "_dynamo_"


@contextmanager
def marks_kept(values: Any) -> Iterator[None]:
    """Put back the marks of all tensors in ``values``, those of ``mark_dynamic`` among them.

    With those of a capture that failed, the next one would open sizes that it is to fix; and a
    later ``torch.compile`` of the user's would open sizes that nobody spoke of.
    """
    tensors = [each for each in pytree.tree_leaves(values) if isinstance(each, torch.Tensor)]
    before = [_marks(tensor) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, marks in zip(tensors, before, strict=True):
            for name in _marks(tensor).keys() - marks.keys():
                delattr(tensor, name)
            for name, value in marks.items():
                setattr(tensor, name, value)


def _marks(tensor: torch.Tensor) -> dict[str, Any]:
    found = {k: v for k, v in getattr(tensor, "__dict__", {}).items() if k.startswith(_MARK)}
    return {name: set(v) if isinstance(v, set) else v for name, v in found.items()}
