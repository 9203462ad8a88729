"""affine(L x) -> L' x: fold a channel affine map into the linear operator before it.

Equation: with ``L x = W x + b`` per output channel ``o``,

    scale[o] * (W x + b)[o] + shift[o] = (scale[o] W[o]) x + (scale[o] b[o] + shift[o]).

Shapes: ``scale`` and ``shift`` are ``(C_out,)``; the operator's output axis must be the map's axis.
Exact in real arithmetic; in floating point the stored weight is rounded once, so each channel
moves by at most half a unit in the last place of its weights.

Source: Jacob et al., "Quantization and Training of Neural Networks" (2018), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.graph import Affine, Graph, Linear, Node
from bnfx.passes.numerics import Values
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.base import Change, Rule
from bnfx.passes.rules.guards import refuse_pair


def match(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    assert isinstance(node.role, Affine)
    before = node.inputs[0]
    if not isinstance(before.role, Linear):
        yield Refusal(Code.NO_LINEAR_BEFORE, f"its input is {before.name}")
        yield from before.refusals  # a conv that could not be read says why
        return
    yield from refuse_pair(before, node)
    wrong_axis = tuple(_refuse_axis(node.role.axis, before, node))
    yield from wrong_axis
    operator, affine = before.role.operator, node.role.map
    if affine.channels not in (None, operator.out_channels):
        if not wrong_axis:
            yield Refusal(
                Code.UNSUPPORTED_FORM,
                f"it has {affine.channels} channels, {before.name} gives {operator.out_channels}",
            )
    elif values is not None:
        broken = tuple(values.refuse_affine(affine))
        yield from broken
        if not broken:
            dtypes = (before.role.dtype, before.dtype or before.role.dtype)
            yield from values.refuse_operator(affine @ operator, dtypes)


def _refuse_axis(axis: int, before: Node, node: Node) -> Iterator[Refusal]:
    """Axes are compared as positions, never by their sizes, which may agree by accident."""
    assert isinstance(before.role, Linear)
    rank = before.rank if before.rank is not None else node.rank
    if rank is None:
        yield Refusal(Code.UNKNOWN_RANK, f"the rank of {before.name}'s output is not known")
    elif rank + before.role.operator.channel_axis != axis:
        yield Refusal(
            Code.AXIS_MISMATCH,
            f"its channels are axis {axis}, those of {before.name} are axis "
            f"{rank + before.role.operator.channel_axis} of {rank}",
        )


def rewrite(graph: Graph, node: Node) -> Change:
    before = node.inputs[0]
    assert isinstance(node.role, Affine) and isinstance(before.role, Linear)
    before.role = Linear(node.role.map @ before.role.operator, before.role.dtype)
    graph.splice_out(node)
    return Change(Outcome.FOLDED, before, before.name)


RULE = Rule("fold-affine-into-linear", match, refuse, rewrite)
