"""Counts what costs: compilations and refills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch._dynamo.callback

from bnfx.weights.body import Program
from bnfx.weights.programs import Programs


class Count:
    """``compiles``: graphs that Dynamo or a late call had compiled; ``fills``: weights folded."""

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

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            setattr(count, name, getattr(count, name) + 1)
            return original(self, *args)

        return call

    def start(_: object) -> None:
        count.compiles += 1

    handler = torch._dynamo.callback.callback_handler
    handler.register_start_callback(start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "fill", counting("fills", Programs.fill))
        for name in ("_late_body", "freeze_late"):
            patch.setattr(Program, name, counting("compiles", getattr(Program, name)))
        try:
            yield count
        finally:
            handler.remove_start_callback(start)
