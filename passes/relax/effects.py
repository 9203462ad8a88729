"""Which values something may write to, and what must run whether or not it is read."""

from __future__ import annotations

import tvm
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.passes.tvm.dataflow import Dataflow, Value, ValueForm

# They write to an operand, whatever block they stand in.
_IN_PLACE = frozenset({"call_tir_inplace", "call_inplace_packed", "call_py_func"})
# Their results are memory of their own: tensor programs write them. Whatever is not listed here may
# give what it was given, or a part of it: reshapes, views, calls of functions, packed functions.
_FRESH = frozenset(
    {f"nn.conv{n}d" for n in (1, 2, 3)}
    | {f"nn.conv{n}d_transpose" for n in (1, 2, 3)}
    | {f"nn.{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg") for n in (1, 2, 3)}
    | {"nn.layer_norm", "nn.group_norm", "nn.pad", "nn.pixel_shuffle"}
    | {"nn.relu", "nn.leakyrelu", "nn.prelu", "nn.gelu", "nn.silu", "nn.softmax", "nn.relu6"}
    | {"add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "negative", "abs"}
    | {"sqrt", "rsqrt", "exp", "log", "sigmoid", "tanh", "erf", "matmul", "clip", "where"}
    | {"mean", "max", "min", "sum", "prod", "std", "variance", "permute_dims", "layout_transform"}
    | {"concat", "split", "strided_slice", "repeat", "tile", "flip", "take", "image.resize2d"}
    | {"image.resize3d", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like"}
    | {"call_tir", "shape_of"}
)


def is_pure(expr: Expr, in_dataflow: bool) -> bool:
    """Whether nothing but its result tells that it ran.

    Args:
        in_dataflow: whether it stands in a dataflow block, where nothing has side effects.
    """
    if not isinstance(expr, relax.Call):
        return in_dataflow or not isinstance(expr, relax.If)
    is_op = isinstance(expr.op, tvm.ir.Op)
    if is_op and str(expr.op.name).removeprefix("relax.") in _IN_PLACE:
        return False
    return in_dataflow or (is_op and bool(expr.op.get_attr("FPurity")))


def written_to(flow: Dataflow) -> set[Value]:
    """The values whose memory may change after they were computed.

    These are the operands of what is not pure, and whatever may share memory with them. Parameters
    may share it with one another.
    """
    found: set[Value] = set()
    stack = [
        arg
        for value in flow.values
        if flow.must_run(value) and value.form is not ValueForm.COPY
        for arg in value.args
    ]
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found.add(value)
        stack += _shared(value)
        stack += [reader for reader in value.readers if value in _shared(reader)]
        if value.form is ValueForm.VARIABLE:
            stack += [other for other in flow.values if other.form is ValueForm.VARIABLE]
    return found


def _shared(value: Value) -> list[Value]:
    """The operands whose memory its result may share."""
    if value.op == "nn.batch_norm":  # in inference it hands its statistics on
        return value.args[3:]
    if value.form is ValueForm.PART and value.args[0].op == "nn.batch_norm" and value.index == 0:
        return []
    return [] if value.op in _FRESH else value.args
