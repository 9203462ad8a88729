"""Sizes that Dynamo captured as symbols, as numbers of one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Combinations of sizes whose numbers are kept.
_MOST = 64

Numbers = Callable[[Sequence[Any]], tuple[int, ...]]  # takes the arguments of a call


class SizesAtCall:
    """Where among its arguments a graph gets the value of each symbol.

    Args:
        captured: what Dynamo knew each argument as.
    """

    def __init__(self, captured: Sequence[Any]) -> None:
        self._where: dict[Any, tuple[int, int | None]] = {}
        for at, known in enumerate(captured):
            if isinstance(known, torch.SymInt):
                self._note(known, at, None)
            elif isinstance(known, torch.Tensor):
                for axis, size in enumerate(known.shape):
                    self._note(size, at, axis)

    def _note(self, size: Any, at: int, axis: int | None) -> None:
        symbol = _expression(size)
        if getattr(symbol, "is_Symbol", False):
            self._where.setdefault(symbol, (at, axis))

    def of(self, sizes: Sequence[int | torch.SymInt]) -> Numbers | None:
        """What gives these sizes for the arguments of a call; ``None`` if they do not tell."""
        expressions = tuple(map(_expression, sizes))
        symbols = sorted(
            {symbol for each in expressions for symbol in getattr(each, "free_symbols", ())},
            key=str,
        )
        if any(symbol not in self._where for symbol in symbols):
            return None
        if not symbols:
            fixed = tuple(map(int, expressions))
            return lambda args: fixed
        where = [self._where[symbol] for symbol in symbols]

        @functools.lru_cache(_MOST)
        def at_sizes(values: tuple[int, ...]) -> tuple[int, ...]:
            given = dict(zip(symbols, values, strict=True))
            return tuple(
                int(each.subs(given)) if hasattr(each, "subs") else each for each in expressions
            )

        def numbers(args: Sequence[Any]) -> tuple[int, ...]:
            return at_sizes(
                tuple(args[at] if axis is None else args[at].shape[axis] for at, axis in where)
            )

        return numbers


def _expression(size: int | torch.SymInt) -> Any:
    """A number, or an expression of sympy's."""
    return size.node.expr if isinstance(size, torch.SymInt) else size
