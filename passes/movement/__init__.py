"""Ops that an affine map can move across: ``a(T x) = T(a' x)``, and how ``a`` changes to ``a'``."""

from bnfx.passes.movement.base import BlockedError, Dims, Movement
from bnfx.passes.movement.homogeneous import Homogeneous
from bnfx.passes.movement.layout import Identity, Permute, Reshape, Sequence
from bnfx.passes.movement.pad import Pad
from bnfx.passes.movement.select import Select
from bnfx.passes.movement.window import Window

__all__ = [
    "BlockedError",
    "Dims",
    "Homogeneous",
    "Identity",
    "Movement",
    "Pad",
    "Permute",
    "Reshape",
    "Select",
    "Sequence",
    "Window",
]
