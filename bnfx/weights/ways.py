"""Bodies, which hold no numbers of the model, and ways to answer calls, which are bodies with some.

Ways belong to the state whose numbers they hold, and are gone with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bnfx.inner.base import Compiled
from bnfx.inner.packed.packing import Packed, serve
from bnfx.weights.changes.snapshot import Numbers

Fits = Callable[[Sequence[Any]], bool]


def always(args: Sequence[Any]) -> bool:
    """For what was compiled inside Dynamo, whose guards vouch for every call."""
    return True


@dataclass(frozen=True, eq=False)
class Way:
    """Answers calls with one set of numbers.

    Args:
        fits: whether it is for arguments of such sizes.
        run: takes all arguments of the captured graph.
    """

    fits: Fits
    run: Callable[[Sequence[Any]], Any]


class Body(Protocol):
    """Compiled code without numbers."""

    @property
    def fits(self) -> Fits:
        """Whether it is for arguments of such sizes."""

    def way(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Way:
        """The body with these numbers; ``weights`` are what was folded from them."""


@dataclass(frozen=True, eq=False)
class PlainBody:
    """Takes the arguments, and the folded weights behind them."""

    fits: Fits
    run: Compiled

    def way(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Way:
        run, given = self.run, tuple(weights)
        used = _used_on_streams(given)
        if used is None:
            return Way(self.fits, lambda args: run(*args, *given))

        def run_on_device(args: Sequence[Any]) -> Any:
            used()
            return run(*args, *given)

        return Way(self.fits, run_on_device)


def _used_on_streams(weights: Sequence[torch.Tensor]) -> Callable[[], None] | None:
    """For weights that were just made on an accelerator: what to call before each use.

    Other threads may use them on other streams: not before they are there, and the memory of a
    state that is dropped must outlive what still runs there.
    """
    on_device = [weight for weight in weights if weight.device.type not in ("cpu", "meta")]
    if not on_device or not torch.accelerator.is_available():
        return None
    device = on_device[0].device
    made_on = torch.accelerator.current_stream(device)
    torch.accelerator.synchronize(device)

    def used() -> None:
        current = torch.accelerator.current_stream(device)
        if current != made_on:
            for weight in on_device:
                weight.record_stream(current)

    return used


@dataclass(frozen=True, eq=False)
class PackedBody:
    """Takes the arguments, and what ``packed`` makes of all weights.

    Args:
        slots: how many of its inputs are folded weights. It reads none: it takes them packed.
    """

    fits: Fits
    packed: Packed
    slots: int
    weights_by_name: Callable[[Sequence[Any], Sequence[torch.Tensor]], dict[str, torch.Tensor]]

    def way(self, numbers: Numbers, weights: Sequence[torch.Tensor]) -> Way:
        packed, slots = self.packed, (None,) * self.slots
        constants = packed.pack(self.weights_by_name(numbers.args, weights))
        constants = [numbers.shared(constant) for constant in constants]
        return Way(self.fits, lambda args: serve(packed, (*args, *slots), constants))
