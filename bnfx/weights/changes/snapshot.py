"""What a set of parameters looked like when it was folded, and whether it still does.

No single sign shows every write. Identity shows another tensor, ``data_ptr`` shows ``p.data = t``,
``_version`` shows in-place writes that autograd sees. Fused optimizers, eager BatchNorm training,
collectives and ``p.data.mul_()`` move none of these; they show in the *content*: small tensors
(all BatchNorm vectors) are compared whole, large ones on a sample, and a hook sees each optimizer
step (:mod:`bnfx.weights.changes.unmarked_writes`). A write that touches a few elements of a large
tensor through ``.data`` or a foreign library shows nowhere, unless ``BNFX_CHECK_CONTENT=1`` asks
for a comparison of everything at each call; else :func:`bnfx.refresh` is for that. FSDP gathers its
shards past all of these, so wherever it is at work, everything is compared.

A snapshot first takes hold of the parameters and of their memory (by an alias of each, which shares
its version counter); the signs, the copies that are folded, and the content that later calls are
compared with are all of that memory, in this order. So a state is keyed to the very numbers that it
was made of: a write that was under way, even one that is undone, shows at the next call; and
neither an ``id`` nor an address can come back as another tensor's.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bnfx.native import loader
from bnfx.weights.changes.content import Content, same_bits
from bnfx.weights.changes.native_check import NativeCheck
from bnfx.weights.changes.unmarked_writes import (
    epoch,
    hides_writes,
    watch_optimizers,
    written_since,
)

# Times that parameters are read because something was written while they were. After that they are
# used as they are, for one call.
MAX_READS = 3

_data_ptr = torch.Tensor.data_ptr
_version = operator.attrgetter("_version")


class Snapshot:
    """What tensors looked like at one moment; answers whether they still do.

    Attributes:
        tensors: themselves. No weak references: ``torch.utils.swap_tensors`` refuses tensors that
            have one.
        memory: an alias of each, of the memory that it had.
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
        watch_optimizers()
        self._epoch = epoch()
        self.tensors = tuple(tensors)
        self._ids = list(map(id, tensors))
        with torch.inference_mode(False), torch.no_grad():
            self.memory = memory = [tensor.detach() for tensor in tensors]
            self._addresses = list(map(_data_ptr, memory))
            # Inference tensors count no versions, and the same tensor stays what it is.
            self._counting = [at for at, tensor in enumerate(tensors) if not tensor.is_inference()]
            self._versions = self._versions_of(memory)
            # Last: whatever is written from now on leaves a sign, or differs from the copies.
            copies = [tensor.clone() for tensor in memory]
        asked = os.environ.get("BNFX_CHECK_CONTENT", "0") not in ("", "0")
        everything = asked or hides_writes(tensors)
        self._content = Content(memory, everything, copies, check)
        self._native: NativeCheck | None = None
        return copies

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors."""
        native = self._native or self._find_native()
        if native is not None:
            return native.is_of(tensors)
        return self._ids == list(map(id, tensors))

    def is_like(self, other: Snapshot) -> bool:
        """Whether both are of the very same tensors."""
        return self._ids == other._ids

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors and nothing was written to them since."""
        return self.is_of(tensors) and self.still_holds(tensors)

    def still_holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether nothing was written to these very tensors since."""
        native = self._native or self._find_native()
        if native is None and not (
            self._addresses == list(map(_data_ptr, tensors))
            and self._versions == self._versions_of(tensors)
        ):
            return False
        now = epoch()
        if written_since(tensors, self._epoch):
            return False
        self._epoch = now  # so that steps of other models are looked at once
        return self.same_content() if native is None else native.still_holds()

    def _find_native(self) -> NativeCheck | None:
        kind = loader.check_type()
        if kind is not None:
            self._native = NativeCheck.of(
                kind, self.tensors, self._addresses, self._all_versions(), self._content
            )
        return self._native

    def _all_versions(self) -> list[int | None]:
        versions = dict(zip(self._counting, self._versions, strict=True))
        return [versions.get(at) for at in range(len(self.tensors))]

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
        settled: whether the parameters were read twice, and held the same both times.
    """

    snapshot: Snapshot
    scalars: tuple[float, ...]
    settled: bool

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
    _copies: Sequence[torch.Tensor]

    @staticmethod
    def of(
        args: Sequence[Any],
        watched: Sequence[int],
        scalars: tuple[float, ...],
        check: str = "content",
    ) -> Numbers:
        """The numbers of this call, now. Read again while something is written to them."""
        for _ in range(MAX_READS):
            numbers = Numbers._read(args, watched, scalars, check)
            if numbers.moment.settled:
                break
        return numbers

    @staticmethod
    def _read(
        args: Sequence[Any], watched: Sequence[int], scalars: tuple[float, ...], check: str
    ) -> Numbers:
        tensors = [args[at] for at in watched]
        snapshot, copies = Snapshot.with_copies(tensors, check)
        copied = list(args)
        for at, copy in zip(watched, copies, strict=True):
            copied[at] = copy
        settled = snapshot.still_holds(tensors) and all(map(same_bits, snapshot.memory, copies))
        return Numbers(copied, frozenset(watched), Moment(snapshot, scalars, settled), copies)

    def shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """The memory of the parameter itself where ``tensor`` is nothing but its copy: it need not
        be held twice, and what is read from it can't be old.
        """
        if tensor.layout is not torch.strided or not tensor.numel():
            return tensor
        pair = self._by_address.get(tensor.data_ptr())
        if pair is None:
            return tensor
        copy, alias = pair
        if tensor.dtype != copy.dtype or tensor.shape != copy.shape:
            return tensor
        return alias if tensor.stride() == copy.stride() == alias.stride() else tensor

    @cached_property
    def _by_address(self) -> Mapping[int, tuple[torch.Tensor, torch.Tensor]]:
        pairs = zip(self._copies, self.moment.snapshot.memory, strict=True)
        return {copy.data_ptr(): (copy, alias) for copy, alias in pairs}
