"""What a set of parameters looked like when it was folded, and whether it still does.

No single sign shows every write. Identity shows another tensor, ``data_ptr`` shows ``p.data = t``,
``_version`` shows in-place writes that autograd sees. Fused optimizers, eager BatchNorm training,
collectives and ``p.data.mul_()`` move none of these; they show in the *content*: small tensors
(all BatchNorm vectors) are compared whole, large ones on a sample, and a hook sees each optimizer
step (:mod:`bnfx.weights.unmarked_writes`). A write that touches a few elements of a large tensor
through ``.data`` or a foreign library shows nowhere, unless ``BNFX_CHECK_CONTENT=1`` asks for a
comparison of everything at each call; else :func:`bnfx.refresh` is for that.

The signs are read before the parameters are copied, and the content that later calls are compared
with is that of the copies, which are what is folded. So a state is keyed to the very numbers that
it was made of: a write that was under way, even one that is undone, shows at the next call.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bnfx.weights.content import Content
from bnfx.weights.unmarked_writes import epoch, watch_optimizers, written_since

_data_ptr = torch.Tensor.data_ptr
_version = operator.attrgetter("_version")


class Snapshot:
    """What tensors looked like at one moment; answers whether they still do.

    Holds no weak references: ``torch.utils.swap_tensors`` refuses tensors that have one.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], check: str = "content") -> None:
        self._take(tensors, check)

    @staticmethod
    def with_copies(
        tensors: Sequence[torch.Tensor], check: str = "content"
    ) -> tuple[Snapshot, list[torch.Tensor]]:
        """A snapshot, and private copies of the tensors: it vouches for the content of those.

        Args:
            check: how the content on other devices than the CPU is compared: the option ``check``.
        """
        snapshot = Snapshot.__new__(Snapshot)
        return snapshot, snapshot._take(tensors, check)

    def _take(self, tensors: Sequence[torch.Tensor], check: str) -> list[torch.Tensor]:
        # In this order: a write during it leaves a sign that is older than the copies, or newer.
        watch_optimizers()
        self._epoch = epoch()
        self._ids = list(map(id, tensors))
        self._addresses = list(map(_data_ptr, tensors))
        # Inference tensors count no versions, and the same tensor stays what it is.
        self._counting = [at for at, tensor in enumerate(tensors) if not tensor.is_inference()]
        self._versions = self._versions_of(tensors)
        everything = os.environ.get("BNFX_CHECK_CONTENT", "0") not in ("", "0")
        with torch.inference_mode(False), torch.no_grad():
            copies = [tensor.detach().clone() for tensor in tensors]
        self._content = Content(tensors, everything, copies, check)
        return copies

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors."""
        return self._ids == list(map(id, tensors))

    def is_like(self, other: Snapshot) -> bool:
        """Whether both are of the very same tensors."""
        return self._ids == other._ids

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors and nothing was written to them since."""
        return self.is_of(tensors) and self.still_holds(tensors)

    def still_holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether nothing was written to these very tensors since."""
        if not (
            self._addresses == list(map(_data_ptr, tensors))
            and self._versions == self._versions_of(tensors)
        ):
            return False
        now = epoch()
        if written_since(tensors, self._epoch):
            return False
        self._epoch = now  # so that steps of other models are looked at once
        return self.same_content()

    def same_content(self) -> bool:
        """Whether what is compared of the memory holds what it held."""
        return self._content.is_same()

    def _versions_of(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        if len(self._counting) != len(tensors):
            tensors = [tensors[at] for at in self._counting]
        return list(map(_version, tensors))


@dataclass(frozen=True)
class Moment:
    """Parameters, and the numbers beside them, as they were when something was derived from them.

    Args:
        snapshot: of the parameters.
        scalars: Python numbers that arrive at run time, such as ``eps`` under ``dynamic=True``.
    """

    snapshot: Snapshot
    scalars: tuple[float, ...]

    def is_of(self, tensors: Sequence[torch.Tensor], scalars: tuple[float, ...]) -> bool:
        """Whether it is a moment of this very set."""
        return self.scalars == scalars and self.snapshot.is_of(tensors)

    def is_like(self, other: Moment) -> bool:
        """Whether both are of one set."""
        return self.scalars == other.scalars and self.snapshot.is_like(other.snapshot)

    def still_holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether nothing was written to this very set since."""
        return self.snapshot.still_holds(tensors)


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
    def of(
        args: Sequence[Any],
        watched: Sequence[int],
        scalars: tuple[float, ...],
        check: str = "content",
    ) -> Numbers:
        """The numbers of this call, now."""
        snapshot, copies = Snapshot.with_copies([args[at] for at in watched], check)
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
