"""Positively homogeneous functions, ``f(s x) = s f(x)`` for ``s >= 0``: ReLU, leaky ReLU, PReLU."""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing.movement import Dims, Movement


@dataclass(frozen=True)
class Homogeneous(Movement):
    """An elementwise ``f`` with ``f(s x) = s f(x)`` for every ``s >= 0``, 0 included."""

    needs_nonnegative_scale = True
    needs_zero_shift = True

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine
