"""The example inputs that a command line describes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import Dim

from bnfx.errors import SourceError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_INTEGERS = {"int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
_OPEN = 3  # the size that an open dimension has in the example
_WORD = re.compile(r"(?P<sizes>\w+?)(:(?P<dtype>\w+))?")


def make_inputs(words: Sequence[str], dtype: str) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Random inputs, and which of their dimensions are open.

    Args:
        words: ``1x3x224x224``; with a capital in place of a size that is left open, the
            same one for the same size, ``Nx3x224x224``; with a dtype of its own, ``1x16:int64``
            (ones and zeros).
        dtype: of the others.

    Returns:
        The inputs, and ``dynamic_shapes`` as ``torch.export.export`` takes them.

    Raises:
        SourceError: for what is not a shape.
    """
    random = torch.Generator().manual_seed(0)
    dims: dict[str, Any] = {}
    inputs, shapes = [], []
    for word in words:
        found = _WORD.fullmatch(word)
        sizes = [_size(size) for size in found["sizes"].split("x")] if found else [0]
        kind = {**DTYPES, **_INTEGERS}.get((found and found["dtype"]) or dtype)
        if 0 in sizes or kind is None:
            raise SourceError(
                f"--input {word} is not a shape: write sizes with x, as 1x3x224x224 (Nx3x224x224 "
                "leaves the first open, 1x16:int64 has a dtype)"
            )
        fixed = [_OPEN if isinstance(size, str) else size for size in sizes]
        if kind in _INTEGERS.values():
            inputs.append(torch.randint(0, 2, fixed, generator=random).to(kind))
        else:
            inputs.append(torch.randn(fixed, generator=random).to(kind))
        opened = [dims.setdefault(s, Dim(s)) if isinstance(s, str) else None for s in sizes]
        shapes.append({at: dim for at, dim in enumerate(opened) if dim is not None})
    return tuple(inputs), tuple(shapes) if dims else None


def _size(word: str) -> int | str:
    """A size, the name of an open one, or 0 for what is neither."""
    if word.isdecimal():
        return int(word)
    return word if len(word) == 1 and word.isupper() else 0


def named_sizes(dynamic_shapes: Any) -> Any:
    """``dynamic_shapes`` with the letters that the user wrote in place of dimensions."""
    if dynamic_shapes is None:
        return None
    return tuple({at: dim.__name__ for at, dim in sizes.items()} for sizes in dynamic_shapes)
