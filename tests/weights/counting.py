"""Counts what costs: compilations and refills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch._dynamo.callback

from bnfx.weights.programs import Programs


class Count:
    """``compiles``: graphs that Dynamo had compiled; ``fills``: sets of weights folded."""

    def __init__(self) -> None:
        self.compiles = 0
        self.fills = 0

    def took(self) -> tuple[int, int]:
        """Compilations and refills since the last time."""
        taken = (self.compiles, self.fills)
        self.compiles = self.fills = 0
        return taken


@contextmanager
def counted() -> Iterator[Count]:
    count = Count()
    original = Programs.fill

    def fill(self: Programs, args: object) -> object:
        count.fills += 1
        return original(self, args)  # type: ignore[arg-type]

    def start(_: object) -> None:
        count.compiles += 1

    handler = torch._dynamo.callback.callback_handler
    handler.register_start_callback(start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "fill", fill)
        try:
            yield count
        finally:
            handler.remove_start_callback(start)
