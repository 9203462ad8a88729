"""What TVM's importer of exported programs is known to get wrong, without a word.

Found by importing the calls of ``tests/relax/op_grids.py`` with apache-tvm 0.27.0.post1. Shapes and
dtypes that are wrong need no entry: each call's are held against the program's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from bnfx.tvm.ops import OpCall
from bnfx.tvm.ops.constant_nodes import CONSTANT
from bnfx.tvm.ops.lowering import FLOATS


@dataclass(frozen=True)
class Fault:
    """A kind of call that is imported wrongly.

    Args:
        wrong: what TVM does, as a sentence goes on behind the operator's name.
        holds: whether a call is of that kind.
    """

    wrong: str
    holds: Callable[[OpCall], bool]


def _has_alpha(call: OpCall) -> bool:
    return bool(call["alpha"] != 1)


def _is_half(call: OpCall) -> bool:
    return call.output.dtype in (torch.float16, torch.bfloat16)


def _index_may_be_negative(call: OpCall) -> bool:
    """An index that is computed cannot be judged."""
    values = [node.meta.get(CONSTANT) for node in call["indices"] if isinstance(node, fx.Node)]
    return any(value is None or bool((value < 0).any()) for value in values)


def _may_be_nan_or_crossed(call: OpCall) -> bool:
    bounds = [call.arguments.get(name) for name in ("min", "max")]
    crossed = None not in bounds and bounds[0] > bounds[1]  # type: ignore[operator]
    return call.output.is_floating_point() or crossed


def _by_zero(call: OpCall) -> bool:
    """Or by what is 0 in float32: 1e-50, for one."""
    other = call["other"]
    if isinstance(other, fx.Node):
        other = other.meta.get(CONSTANT)
        if other is None or other.dim():
            return False
        other = other.item()
    return call.output.is_floating_point() and call.vanishes(other)


_MINUS_ZERO = Fault("keeps -0 where it adds 0", _by_zero)
_ALPHA = Fault("leaves alpha out", _has_alpha)
_HALF = Fault("is summed in half precision", _is_half)
_BOUNDS = Fault("loses NaN, and mistakes min > max", _may_be_nan_or_crossed)
_INDEX = Fault("reads out of bounds where an index is negative", _index_may_be_negative)

FAULTS: dict[str, tuple[Fault, ...]] = {
    "add.Tensor": (_ALPHA, _MINUS_ZERO),
    "sub.Tensor": (_ALPHA, _MINUS_ZERO),
    "mul.Tensor": (Fault("takes x * 0 for 0, NaN and infinity included", _by_zero),),
    "add.Scalar": (_ALPHA,),
    "sub.Scalar": (_ALPHA,),
    "rsub.Scalar": (_ALPHA,),
    "rsub.Tensor": (_ALPHA,),
    "clamp.default": (_BOUNDS,),
    "hardtanh.default": (_BOUNDS,),
    "clamp_min.default": (_BOUNDS,),
    "clamp_max.default": (_BOUNDS,),
    "select.int": (
        Fault("reads out of bounds where the index is negative", lambda call: call["index"] < 0),
    ),
    "index.Tensor": (_INDEX,),
    "_unsafe_index.Tensor": (_INDEX,),
    "div.Tensor": (Fault("cannot be built by TVM where it divides by 0", _by_zero),),
    "tanh.default": (
        Fault("makes 0 of -0, and is rough in float64", lambda call: call.output.dtype in FLOATS),
    ),
    "elu.default": (Fault("loses NaN, and leaves scale out", lambda call: True),),
    "selu.default": (Fault("takes a scale of 1", lambda call: True),),
    "avg_pool2d.default": (
        Fault("leaves divisor_override out", lambda call: call["divisor_override"] is not None),
        _HALF,
    ),
    "_adaptive_avg_pool2d.default": (_HALF,),
    "mean.dim": (_HALF,),
    "sum.dim_IntList": (_HALF,),
    "var.correction": (_HALF,),
    "max_pool2d_with_indices.default": (
        Fault("gives the values in place of the indices", lambda call: not call.only_first()),
    ),
    "_upsample_bilinear2d_aa.default": (Fault("leaves antialias out", lambda call: True),),
    "_upsample_bicubic2d_aa.default": (Fault("leaves antialias out", lambda call: True),),
    "grid_sampler_2d.default": (Fault("reads the grid transposed", lambda call: True),),
}


def fault_of(name: str, call: OpCall) -> str | None:
    """What TVM does wrong with a call, if that is known."""
    return next((fault.wrong for fault in FAULTS.get(name, ()) if fault.holds(call)), None)
