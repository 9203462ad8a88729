"""Content on a device that runs behind the host, such as a GPU: compared there.

The answer is one boolean. Reading it makes the host wait until the device has done all that was
asked of it before, so that no work can be queued ahead. It may be read at the next comparison
instead: then nothing waits, and a change is noticed one comparison late, or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Asked:
    """A comparison that is under way: its answer on the host, and when it is there."""

    differs: torch.Tensor
    done: torch.Event | None

    def is_answered(self) -> bool:
        return self.done is None or self.done.query()


class DeviceContent:
    """What tensors of one device held, and whether they still do.

    Args:
        pairs: a tensor's part that is compared, and what it held; of equal shape and dtype.
        small: elements up to which parts of one dimension are joined, to compare them at once.
        waits: read the answer at once, or at a later comparison.
    """

    def __init__(
        self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], small: int, waits: bool
    ) -> None:
        self._waits = waits
        self._asked: _Asked | None = None
        self._alone: list[tuple[torch.Tensor, torch.Tensor]] = []
        joined: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for view, were in pairs:
            if view.dim() == 1 and view.numel() <= small:
                joined.setdefault(view.dtype, []).append((view, were))
            else:
                self._alone.append((view, were.clone()))
        self._joined = [
            ([view for view, _ in some], torch.cat([were for _, were in some]))
            for some in joined.values()
        ]

    def is_same(self) -> bool:
        """Whether it holds what it held; without waiting, as far as is known by now."""
        if _is_recorded():  # for a CUDA graph, which reads the weights when it is replayed
            return True
        with torch.inference_mode(False), torch.no_grad():
            if self._waits:
                return not self._compare()
            asked = self._asked
            if asked is None:
                self._ask()
            elif asked.is_answered():
                if asked.differs:
                    return False  # for good, even if the write is undone: nothing more is asked
                self._ask()
        return True

    def _ask(self) -> None:
        differs = self._compare()
        if differs.device.type == "cpu":
            self._asked = _Asked(differs, None)
            return
        answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        answer.copy_(differs, non_blocking=True)
        done = torch.Event(differs.device)
        done.record()
        self._asked = _Asked(answer, done)

    def _compare(self) -> torch.Tensor:
        """Whether anything differs; one boolean on the device."""
        each = [(torch.cat(views) != were).any() for views, were in self._joined]
        each += [(view != were).any() for view, were in self._alone]
        return each[0] if len(each) == 1 else torch.stack(each).any()


def _is_recorded() -> bool:
    initialized: Any = torch.cuda.is_initialized
    return bool(initialized()) and torch.cuda.is_current_stream_capturing()
