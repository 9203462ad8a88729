"""The per-channel affine map, which is what BatchNorm is in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

from bnfx.passes.algebra.expression import Expression, Operand, Scalar, Source, as_expression
from bnfx.passes.algebra.linear import LinearOperator


@dataclass(frozen=True)
class ChannelAffine:
    """``y[c] = scale[c] * x[c] + shift[c]``, for each channel ``c``.

    A monoid under composition: ``(a @ b)(x) == a(b(x))`` with :meth:`identity` as its unit, and
    ``a @ operator`` absorbs the map into a linear operator that stands before it.

    Args:
        scale: shape ``(C,)``, or ``()`` for one number for all channels.
        shift: shape ``(C,)`` or ``()``.
    """

    scale: Expression
    shift: Expression

    def __post_init__(self) -> None:
        for name, expression in (("scale", self.scale), ("shift", self.shift)):
            if len(expression.shape) > 1:
                raise ValueError(f"{name} must have shape (C,) or (), not {expression.shape}")
        if self.scale.shape and self.shift.shape and self.scale.shape != self.shift.shape:
            raise ValueError(
                f"scale has {self.scale.shape[0]} channels, shift {self.shift.shape[0]}"
            )

    @staticmethod
    def identity() -> ChannelAffine:
        """``y = x``."""
        return ChannelAffine(Scalar(1.0), Scalar(0.0))

    @staticmethod
    def batch_norm(
        mean: Expression,
        var: Expression,
        gamma: Expression | None,
        beta: Expression | None,
        eps: Operand,
    ) -> ChannelAffine:
        """BatchNorm in evaluation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

        Args:
            mean, var: running statistics, shape ``(C,)``.
            gamma, beta: learned scale and shift, shape ``(C,)``; ``None`` means 1 and 0.
            eps: added to ``var`` under the root.

        Source: Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2.
        """
        scale = (1.0 if gamma is None else gamma) / (var + as_expression(eps)).sqrt()
        shift = -mean * scale
        return ChannelAffine(scale, shift if beta is None else beta + shift)

    @property
    def channels(self) -> int | None:
        """C, or ``None`` where one number serves all channels."""
        for expression in (self.scale, self.shift):
            if expression.shape:
                return expression.shape[0]
        return None

    @property
    def is_scale(self) -> bool:
        """Whether it has no shift, by construction."""
        return self.shift == Scalar(0.0)

    def sources(self) -> Iterator[Source]:
        """The parameters that the map reads."""
        yield from dict.fromkeys((*self.scale.sources(), *self.shift.sources()))

    def __add__(self, other: ChannelAffine) -> ChannelAffine:
        """``x -> self(x) + other(x)``."""
        return ChannelAffine(self.scale + other.scale, self.shift + other.shift)

    @overload
    def __matmul__(self, other: ChannelAffine) -> ChannelAffine: ...
    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    def __matmul__(self, other: Any) -> Any:
        """``self`` after ``other``: ``(a @ b)(x) == a(b(x))``."""
        if isinstance(other, ChannelAffine):
            if None not in (self.channels, other.channels) and self.channels != other.channels:
                raise ValueError(f"a map of {self.channels} channels after {other.channels}")
            return ChannelAffine(self.scale * other.scale, self.scale * other.shift + self.shift)
        if isinstance(other, LinearOperator):
            return other.then(self.scale, self.shift)
        return NotImplemented
