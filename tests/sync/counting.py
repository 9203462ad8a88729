"""Counts the collectives that run, in eager mode and in compiled graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "_c10d_functional" and "wait" not in func.__name__:
            self.counts[func.__name__.split(".")[0].rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """The collectives that eager code runs inside."""
    with _Counting() as mode:
        yield mode.counts


def gathers(counts: Counter[str]) -> tuple[int, int]:
    """All-gathers and all-reduces."""
    return counts["all_gather_into_tensor"], counts["all_reduce"]
