"""Folded weights, one set for each set of parameters that a compiled graph is called with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from bnfx.inner.packing import Packed
from bnfx.weights.snapshot import Moment

if TYPE_CHECKING:
    from bnfx.weights.body import Frozen, Program


class ReadWriteLock:
    """Many may read, or one may write. A thread that reads may read once more, never write."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._readers = 0
        self._writing = False

    def __enter__(self) -> None:
        with self._condition:
            while self._writing:
                self._condition.wait()
            self._readers += 1

    def __exit__(self, *error: object) -> None:
        with self._condition:
            self._readers -= 1
            if not self._readers:
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody reads, and keep everybody out."""
        with self._condition:
            while self._writing or self._readers:
                self._condition.wait()
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


class FoldedState:
    """What was folded from one set of parameters, at one moment.

    Everything here changes at once, behind ``gate``; a call reads it through the gate.

    Args:
        moment: of the parameters.
        program: the form of the graph that is right for their numbers; ``None`` for the original.
        weights: what its slots hold, where the live body takes plain tensors. They keep their
            addresses from then on.
        constants: what each packed body takes.
        frozen: the body with this set's weights as constants, as long as there is one.
        quiet: calls since the last change.
    """

    def __init__(self, moment: Moment, frozen: Frozen | None = None) -> None:
        self.gate = ReadWriteLock()
        self.moment = moment
        self.program: Program | None = None
        self.weights: list[torch.Tensor] = []
        self.constants: dict[Packed, Sequence[torch.Tensor]] = {}
        self.frozen = frozen
        self.quiet = 0

    def fill(
        self,
        moment: Moment,
        program: Program | None,
        weights: list[torch.Tensor],
        constants: dict[Packed, Sequence[torch.Tensor]],
    ) -> None:
        """Replace everything, waiting for the calls that still use it."""
        with self.gate.alone(), torch.inference_mode(False), torch.no_grad():
            if program is self.program and len(weights) == len(self.weights) > 0:
                # Calls before this one may still run on the device.
                for device in {w.device for w in weights if w.device.type not in ("cpu", "meta")}:
                    torch.accelerator.synchronize(device)
                for buffer, weight in zip(self.weights, weights, strict=True):
                    buffer.copy_(weight)
            else:
                self.weights = weights
            self.constants = constants
            self.program = program
            self.frozen = None
            self.quiet = 0
            self.moment = moment

    def __repr__(self) -> str:
        form = "frozen" if self.frozen else "original" if self.program is None else "live"
        return f"<{form}, {self.quiet} calls since the last change>"


def same_set(
    states: Sequence[FoldedState], tensors: Sequence[Any], scalars: tuple[float, ...]
) -> FoldedState | None:
    """The state of this very set of parameters, if there is one."""
    return next((state for state in states if state.moment.is_of(tensors, scalars)), None)
