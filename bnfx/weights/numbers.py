"""What is folded: private copies of a call's parameters, and the moment that they show.

The signs by which a change is seen are read before the copies are made, and the content that later
calls are compared with is the copies' own. So a state is keyed to the very numbers that it was made
of: a write that was under way, even one that is undone, shows at the next call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bnfx.weights.snapshot import Moment, Snapshot


@dataclass(frozen=True, eq=False)
class Numbers:
    """The arguments of one call; what is watched of them can't change any more.

    Args:
        args: copies where they are watched, else the call's own.
        watched: the positions of those.
        moment: what the copies show.
    """

    args: Sequence[Any]
    watched: frozenset[int]
    moment: Moment
    _originals: Sequence[Any]

    @staticmethod
    def of(args: Sequence[Any], watched: Sequence[int], scalars: tuple[float, ...]) -> Numbers:
        """The numbers of this call, now."""
        snapshot, copies = Snapshot.with_copies([args[at] for at in watched])
        copied = list(args)
        for at, copy in zip(watched, copies, strict=True):
            copied[at] = copy
        return Numbers(copied, frozenset(watched), Moment(snapshot, scalars), args)

    def shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """The parameter itself where ``tensor`` is nothing but its copy: it need not be held twice,
        and what is read from it can't be old.
        """
        if tensor.layout is not torch.strided or not tensor.numel():
            return tensor
        pair = self._by_address.get(tensor.data_ptr())
        if pair is None:
            return tensor
        copy, original = pair
        if tensor.dtype != copy.dtype or tensor.shape != copy.shape:
            return tensor
        same = tensor.stride() == copy.stride() == original.stride()
        return original.detach() if same else tensor

    @cached_property
    def _by_address(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        pairs = ((self.args[at], self._originals[at]) for at in self.watched)
        return {copy.data_ptr(): (copy, original) for copy, original in pairs}
