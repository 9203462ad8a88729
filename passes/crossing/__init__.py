"""Ops that an affine map can move across: ``a(T x) = T(a' x)``, and how ``a`` changes to ``a'``."""

from bnfx.passes.crossing.homogeneous import Homogeneous
from bnfx.passes.crossing.movement import BlockedError, Dims, Movement
from bnfx.passes.crossing.pad import Pad
from bnfx.passes.crossing.reorder import Chain, Identity, Permute, Reshape
from bnfx.passes.crossing.select import Select
from bnfx.passes.crossing.window import Window

__all__ = [
    "BlockedError",
    "Chain",
    "Dims",
    "Homogeneous",
    "Identity",
    "Movement",
    "Pad",
    "Permute",
    "Reshape",
    "Select",
    "Window",
]
