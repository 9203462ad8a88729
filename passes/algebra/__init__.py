"""Affine maps, linear operators and symbolic weight expressions; no torch, no tvm."""

from bnfx.passes.algebra import serial as _serial  # noqa: F401 (it defines L2 @ L1)
from bnfx.passes.algebra.affine import ChannelAffine
from bnfx.passes.algebra.broadcast import BroadcastAffine
from bnfx.passes.algebra.convolution import Conv
from bnfx.passes.algebra.dense import Dense
from bnfx.passes.algebra.evaluate import Evaluator
from bnfx.passes.algebra.expression import Expression, Scalar, Source
from bnfx.passes.algebra.linear import Composition, LinearOperator
from bnfx.passes.algebra.parallel import average, diagonal, regrouped
from bnfx.passes.algebra.spatial import SpatialOperator, same_padding
from bnfx.passes.algebra.transposed import ConvTranspose

__all__ = [
    "BroadcastAffine",
    "ChannelAffine",
    "Composition",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Evaluator",
    "Expression",
    "LinearOperator",
    "Scalar",
    "Source",
    "SpatialOperator",
    "average",
    "diagonal",
    "regrouped",
    "same_padding",
]
