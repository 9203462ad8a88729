"""Which values something may write to, and what must run whether or not it is read."""

from __future__ import annotations

import tvm
from tvm import relax

from bnfx.passes.relax.expressions import Dataflow, Value

# They write to an operand, whatever block they stand in.
_IN_PLACE = frozenset({"call_tir_inplace", "call_inplace_packed", "call_py_func"})
# Their result may share memory with what they read.
_VIEWS = frozenset({"reshape", "flatten", "nn.batch_flatten", "squeeze", "expand_dims"})


def is_pure(value: Value, flow: Dataflow) -> bool:
    """Whether nothing but its result tells that it ran."""
    if value.is_cast or value.op in _IN_PLACE:
        return False
    if not isinstance(value.expr, relax.Call) or flow.is_dataflow(value):
        return not isinstance(value.expr, relax.If)
    callee = value.expr.op
    return isinstance(callee, tvm.ir.Op) and bool(callee.get_attr("FPurity"))


def must_run(value: Value, flow: Dataflow) -> bool:
    """Whether it stays although nobody reads it: as it was written, or for what it does."""
    return value.binding is not None and (not value.readers or not is_pure(value, flow))


def written_to(flow: Dataflow) -> set[Value]:
    """The values whose memory may change after they were computed: operands of what is not pure."""
    found: set[Value] = set()
    stack = [
        arg
        for value in flow.values
        if value.binding is not None and not value.is_cast and not is_pure(value, flow)
        for arg in value.args
    ]
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found.add(value)
        shares = not isinstance(value.expr, relax.Call) or value.op in _VIEWS
        stack += value.args if shares else []
        stack += [reader for reader in value.readers if reader.op in _VIEWS]
    return found
