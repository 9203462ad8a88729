"""What a row of the table is given: it writes one call of an ATen operator with an engine's own.

The operators that rows write are those of OpenVINO's operator sets, by its names and arguments; for
another engine, ``ops`` offers the same (:mod:`bnfx.inner.onnxruntime.onnx_ops`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfx.inner.base import EngineRefusal

Output = Any  # of an engine's node
Arguments = Mapping[str, Any]
Row = Callable[["Writer", fx.Node, Arguments], Any]

aten = torch.ops.aten


class Writer:
    """An engine's graph in the making. Args: its operators."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops
        self.values: dict[fx.Node, Any] = {}

    def read(self, value: Any) -> Output:
        """A tensor of the graph, or a number as one."""
        if isinstance(value, fx.Node):
            return self.values[value]
        return self.number(value)

    def number(self, value: float) -> Output:
        return self.ops.constant(np.asarray(value, dtype=np.float32))

    def integers(self, values: Sequence[int]) -> Output:
        # A size that is a symbol becomes a number here, and a guard says which.
        return self.ops.constant(np.asarray([int(value) for value in values], dtype=np.int64))

    def parameter(self, size: Sequence[int]) -> Output:
        """An input; sizes that are symbols are open."""
        sizes = [-1 if isinstance(each, torch.SymInt) else each for each in size]
        return self.ops.parameter(sizes, np.float32)

    def reshape(self, x: Output, before: Sequence[Any], after: Sequence[Any]) -> Output:
        """``x`` of sizes ``before`` in sizes ``after``, where one of these may be any size, and
        others the one that stands at the same place of ``before``.
        """
        sizes, free = list[int](), False
        for at, size in enumerate(after):
            if not isinstance(size, torch.SymInt):
                sizes.append(size)
            elif at < len(before) and _is_same(before[at], size):
                sizes.append(0)
            elif not free:
                sizes.append(-1)
                free = True
            else:
                sizes.append(int(size))
        return self.ops.reshape(x, self.integers(sizes), special_zero=0 in sizes)

    def tensor(self, value: torch.Tensor) -> Output:
        """A copy of a weight."""
        return self.ops.constant(value.detach().contiguous().numpy())


def _is_same(one: Any, other: Any) -> bool:
    """Whether two sizes are the same symbol, or the same expression of some."""
    symbols = isinstance(one, torch.SymInt) and isinstance(other, torch.SymInt)
    return symbols and bool(one.node.expr == other.node.expr)


def shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def need(condition: bool, node: fx.Node, what: str) -> None:
    """Refuse a call unless ``condition`` holds."""
    if not condition:
        raise EngineRefusal(f"no tested way to run {node.target} with {what}")


def spread(values: Sequence[int], dimensions: int) -> list[int]:
    """One number for each dimension, as torch reads a list of one."""
    numbers = [int(value) for value in values]
    return numbers * (dimensions if len(numbers) == 1 else 1)
