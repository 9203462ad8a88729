"""Graphs in which an engine could lose a NaN that PyTorch keeps.

Inputs and weights are finite. So, but for overflow, a NaN comes of a few operators, and some
engines drop it in a maximum: ``relu(sqrt(-1))`` is 0 there.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from bnfx.inner.base import EngineRefusal
from bnfx.inner.engines import moving
from bnfx.inner.engines.rows import aten

# Of these results, each number is finite where the operands' are, but for overflow; and NaN where
# an operand's is.
_ARITHMETIC = frozenset(
    {
        aten.convolution.default,
        aten.addmm.default,
        aten.mm.default,
        aten.bmm.default,
        aten.native_batch_norm.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.rsub.Scalar,
        aten.mul.Tensor,
        aten.neg.default,
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten._adaptive_avg_pool2d.default,
    }
)
# Finite numbers may become NaN, or infinite, in these.
_MAKES = frozenset({aten.sqrt.default, aten.exp.default, aten.div.Tensor})


def refuse_lost_nan(graph: fx.GraphModule) -> None:
    """Raise :class:`EngineRefusal` if a NaN may reach an operator that is not known to keep it."""
    doubtful = set[fx.Node]()
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        before = doubtful.intersection(node.all_input_nodes)
        keeps = node.target in _MAKES or node.target in _ARITHMETIC or node.target in moving.ROWS
        if before and not keeps:
            made = next(iter(before)).target
            raise EngineRefusal(f"{node.target} could lose a NaN that comes of {made}")
        if before or (node.target in _MAKES and not _divides_by_number(node)):
            doubtful.add(node)


def _divides_by_number(node: fx.Node) -> bool:
    divisor: Any = node.args[1] if node.target == aten.div.Tensor else None
    return isinstance(divisor, (int, float)) and divisor != 0
