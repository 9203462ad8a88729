"""Whether a legal rewrite pays: one cost function, in floating-point operations and bytes moved.

An op that does ``f`` operations and moves ``b`` bytes costs ``f + BALANCE * b``. The balance is
that of current processors, CPU and GPU alike: 10 to 100 operations take as long as moving one byte
from memory; the lower end is used, since what stands next to an elementwise op is often fused with
it. Sizes that are not known count as :data:`NOMINAL`; rewrites are compared on equal sizes, so it
matters little which.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from __future__ import annotations

import math

from bnfx.passes.algebra import BroadcastAffine, ConvTranspose, LinearOperator
from bnfx.passes.crossing import Dims
from bnfx.passes.graph import Node

BALANCE = 10.0  # floating-point operations that take as long as moving one byte
NOMINAL = 32  # the size of an axis that is not known

_BYTES: dict[str | None, int] = {"float64": 8, "float16": 2, "bfloat16": 2}


def elementwise(node: Node, affine: BroadcastAffine) -> float:
    """The cost of applying ``affine`` by itself at ``node``: read, multiply and add, write."""
    size = _count(node.shape)
    return steps(affine) * size + BALANCE * _itemsize(node) * (2 * size + _constants(affine))


def epilogue(node: Node, affine: BroadcastAffine) -> float:
    """The cost of applying ``affine`` to the output of a linear operator.

    Compilers fuse what follows such an operator into it or into the elementwise ops that follow, so
    only the constants are moved; what stands before it they do not fuse.
    """
    moved = _itemsize(node) * _constants(affine)
    return steps(affine) * _count(node.shape) + BALANCE * moved


def linear(operator: LinearOperator, source: Node, target: Node) -> float:
    """The cost of a linear operator that reads ``source`` and gives ``target``."""
    places = source.shape if isinstance(operator, ConvTranspose) else target.shape
    channels = (
        operator.in_channels if isinstance(operator, ConvTranspose) else operator.out_channels
    )
    rank = len(operator.spatial_axes) + 2
    positions = _count(places, rank) / channels if places else NOMINAL ** (rank - 1)
    weights = math.prod(operator.weight.shape)
    moved = _count(source.shape, rank) + _count(target.shape, rank) + weights
    return 2 * weights * positions + BALANCE * _itemsize(target) * moved


def addition(node: Node) -> float:
    """The cost of adding two tensors of ``node``'s shape."""
    size = _count(node.shape)
    return size + BALANCE * _itemsize(node) * 3 * size


def _count(dims: Dims | None, rank: int = 4) -> int:
    if dims is None:
        return int(NOMINAL**rank)
    return math.prod(size if isinstance(size, int) else NOMINAL for size in dims)


def _itemsize(node: Node) -> int:
    return _BYTES.get(node.dtype, 4)


def steps(affine: BroadcastAffine) -> int:
    """How many operations a map is, on each element."""
    return (not affine.is_shift) + (not affine.is_scale)


def _constants(affine: BroadcastAffine) -> int:
    return math.prod(affine.scale.shape) + math.prod(affine.shift.shape)
