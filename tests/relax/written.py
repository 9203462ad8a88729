"""A function's bindings as text: in which block each stands, and what it binds and reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from relax.graphs import Expr, Make
from tvm import relax

from bnfx.passes.relax.compat import Constant, name_of, type_of
from bnfx.passes.relax.expressions import op_name, operands
from bnfx.tvm.relax import FoldBatchNorm


def folded(build: Callable[[Make], Expr], dtype: str = "float64") -> str:
    """What becomes of one dataflow block."""
    return written(FoldBatchNorm()(Make(0, dtype).module(build)))


def folded_blocks(build: Callable[[Make], Expr]) -> str:
    """What becomes of a function that opens its blocks itself."""
    make = Make(0)
    with make.builder.function("main"):
        make.builder.emit_func_output(build(make), params=make.inputs)
    return written(FoldBatchNorm()(make.builder.get()))


def written(module: tvm.IRModule) -> str:
    """Dataflow blocks in brackets, others in parentheses, then the result."""
    body = module["main"].body
    return " ".join([*map(_block, body.blocks), _name(body.body)])


def _block(block: Any) -> str:
    lines = "; ".join(map(_line, block.bindings))
    return f"[{lines}]" if isinstance(block, relax.DataflowBlock) else f"({lines})"


def _line(binding: Any) -> str:
    """``!`` where the variable is seen outside of its block."""
    variable, value = binding.var, binding.value
    mark = "" if isinstance(variable, relax.DataflowVar) else "!"
    kind = op_name(value) or type(value).__name__
    kind = "cast" if isinstance(binding, relax.MatchCast) else kind.rpartition(".")[2]
    return f"{name_of(variable)}{mark}={kind}({' '.join(map(_name, operands(value)))})"


def _name(expr: Any) -> str:
    if isinstance(expr, Constant):
        return str(tuple(int(size) for size in type_of(expr).shape.values)).replace(" ", "")
    return name_of(expr) if isinstance(expr, relax.Var) else type(expr).__name__
