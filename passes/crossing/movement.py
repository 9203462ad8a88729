"""What every movable op offers: the map on its other side, and under which conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.refusals import Code, Refusal

# A size that is not known when compiling is the name that the IR has for it.
Dims = tuple[int | str, ...]


class BlockedError(Exception):
    """The map cannot cross: a stable code and a sentence."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(code, reason)


class Movement(ABC):
    """An op ``T`` of one data input that some affine maps commute with.

    Two conditions are about numbers, so they are stated here and checked by who knows the numbers:

    - ``needs_nonnegative_scale``: ``T`` picks by order (a maximum), which a negative scale
    reverses.
    - ``needs_zero_shift``: ``T`` scales but does not shift (a ReLU).
    """

    needs_nonnegative_scale = False
    needs_zero_shift = False

    @abstractmethod
    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        """``a'`` with ``a(T x) = T(a' x)``.

        Args:
            affine: ``a``, on the output.
            before, after: the shapes of ``T``'s input and output.

        Raises:
            BlockedError: if there is no such map.
        """

    def back_alone(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        """:meth:`back`, where ``T`` is all that reads its input: what it leaves out may change."""
        return self.back(affine, before, after)

    @abstractmethod
    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        """``a'`` with ``T(a x) = a'(T x)``; ``a`` is on the input.

        Raises:
            BlockedError: if there is no such map.
        """


def refuse_varying(affine: BroadcastAffine, axes: tuple[int, ...], what: str) -> None:
    """Raise :class:`BlockedError` if the map varies along one of ``axes``."""
    wrong = sorted(set(affine.axes) & set(axes))
    if wrong:
        raise BlockedError(Code.AXIS_MISMATCH, f"it varies along axis {wrong[0]}, which {what}")
