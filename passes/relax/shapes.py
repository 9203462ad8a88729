"""Shapes of values whose sizes may not be fixed.

Relax knows sizes by symbolic expressions. Here each gets a name of its own, and two that are proved
to be equal get one name; two variables of one name are two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, tirx

from bnfx.passes.crossing import Dims
from bnfx.passes.graph import Node
from bnfx.passes.relax.compat import TensorType, Type, same, simplify
from bnfx.passes.tvm.dataflow import Value


class NamedSizes:
    """Names sizes that are not fixed."""

    def __init__(self) -> None:
        self._known: dict[str, list[Any]] = {}
        self._simplify = simplify()

    def of(self, value: Value, kind: Type, inputs: Sequence[Node] = ()) -> Dims | None:
        """The shape of a value of this type, or ``None`` if it is not known."""
        sizes = sizes_of(kind)
        if sizes is None:
            return None
        pairs = zip(sizes, kind.shape.values, strict=True)
        return tuple(self._name(dim) if size is None else size for size, dim in pairs)

    def _name(self, dim: Any) -> str:
        dim = self._simplify(dim)
        text = str(dim)
        same_text = self._known.setdefault(text, [])
        for count, other in enumerate(same_text):
            if same(dim, other):
                return f"{text}#{count}" if count else text
        same_text.append(dim)
        return f"{text}#{len(same_text) - 1}" if len(same_text) > 1 else text


def sizes_of(kind: Type) -> tuple[int | None, ...] | None:
    """The sizes of a tensor type, ``None`` for one that is not fixed."""
    if not isinstance(kind, TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        return None
    dims = kind.shape.values
    return tuple(int(d) if isinstance(d, (int, tirx.IntImm)) else None for d in dims)


def rank_of(kind: Type) -> int | None:
    """The number of dimensions, or ``None``."""
    return int(kind.ndim) if isinstance(kind, TensorType) and kind.ndim >= 0 else None


def dtype_of(kind: Type) -> str | None:
    """The dtype's name, or ``None``."""
    if not isinstance(kind, TensorType) or kind.dtype is None:
        return None
    name = str(kind.dtype).removeprefix("T.")
    return name if name and name != "void" else None
