"""What the answer of a call may be while somebody writes to the weights.

The promise (docs/weights.md): a call uses, of each element of a weight, the value that was there
when the call began, or one that was written while it ran. A write to several elements that is under
way may be in it in part. So the elements of a weight are what Lamport calls regular registers; here
each is, by the counts of writes that had begun and that were done.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bnfx.bench.soaking.soak_writes import VALUES, Net, Vector, by_element, weight_of

BOUND = 1e-4  # of a relative error; two versions differ by more than a hundred times that
_Counts = tuple[int, ...]


class Subject:
    """A model that is written to, and what its answers may be.

    Args:
        model: of version 0 from now on.
        inputs: that it is called with.
    """

    def __init__(self, model: Net, inputs: Sequence[torch.Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self._twin = copy.deepcopy(model)
        self._lock = threading.Lock()
        # Of each element of a vector, of a matrix as a whole: writes that began, and that ended.
        parts = model.pattern.numel() if isinstance(model, Vector) else 1
        self._begun, self._done = [0] * parts, [0] * parts
        self._answers = [
            [self._answer(weight_of(model, version), at) for at in range(len(inputs))]
            for version in range(len(VALUES))
        ]
        with torch.no_grad():
            model.written.weight = nn.Parameter(weight_of(model, 0), requires_grad=False)

    def write(self, kind: Callable[[Any, torch.Tensor], Any]) -> None:
        """The next version, in one piece."""
        value = weight_of(self.model, self._begun[0] + 1)
        self._begun[:] = [count + 1 for count in self._begun]
        kind(self.model.written, value)
        self._done[:] = [count + 1 for count in self._done]

    def write_by_element(self) -> None:
        """The next version, so slowly that calls run in the middle of it."""
        writing = by_element(self.model.written, weight_of(self.model, self._begun[0] + 1))
        for at in writing:
            if at:
                self._done[at - 1] += 1
                time.sleep(0.002)
            self._begun[at] += 1
        self._done[-1] += 1

    def done(self) -> _Counts:
        """To be read before a call."""
        return tuple(self._done)

    def begun(self) -> _Counts:
        """To be read after a call."""
        return tuple(self._begun)

    def judge(self, answer: torch.Tensor, at: int, done: _Counts, begun: _Counts) -> str:
        """How the answer of a call comes about.

        Args:
            answer: to the input at ``at``.
            done: what :meth:`done` was before the call.
            begun: what :meth:`begun` was after it.

        Returns:
            ``"exact"``: nothing was written while it ran, and it is that of the weights.
            ``"whole"``: it is that of one of the versions that were current. ``"mixed"``: of
            elements of several. ``"wrong"``: it is none of these.
        """
        kind = "exact" if done == begun else "mixed"
        for version in range(max(done), min(begun) + 1):
            if _close(answer, self._answers[version % len(VALUES)][at]):
                return "exact" if done == begun else "whole"
        ranges = [range(low, high + 1) for low, high in zip(done, begun, strict=True)]
        possible = [sorted({VALUES[version % len(VALUES)] for version in each}) for each in ranges]
        if isinstance(self.model, Vector):
            mixtures = itertools.product(*possible)
            return kind if any(self._is_of(answer, at, each) for each in mixtures) else "wrong"
        # With inputs and patterns above zero, each element that is larger makes the answer so.
        ends = possible[0][0], possible[0][-1]
        low, high = (self._answers[VALUES.index(value)][at] for value in ends)
        room = BOUND * float(torch.maximum(low.abs(), high.abs()).max())
        within = (answer >= low - room) & (answer <= high + room)
        return kind if bool(within.all()) else "wrong"

    def _is_of(self, answer: torch.Tensor, at: int, mixture: Sequence[float]) -> bool:
        return _close(answer, self._answer(torch.tensor(mixture), at))

    def _answer(self, weight: torch.Tensor, at: int) -> torch.Tensor:
        """What the model answers with that weight, by PyTorch alone."""
        with self._lock, torch.no_grad():
            self._twin.written.get_parameter("weight").copy_(weight)
            answer: torch.Tensor = self._twin(self.inputs[at])
            return answer


def _close(answer: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((answer - wanted).abs().max()) <= BOUND * float(wanted.abs().max())
