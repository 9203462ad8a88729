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
from dataclasses import replace

from bnfx.passes.algebra import ChannelAffine
from bnfx.passes.graph import Affine, Graph, Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.guards import refuse_pair, take_out
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


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
    yield from _refuse_axis(before, node)
    operator = before.role.operator
    affine = _channels(before, node)  # none where the axis is refused
    if affine is not None and affine.channels not in (None, operator.out_channels):
        yield Refusal(
            Code.UNSUPPORTED_FORM,
            f"it has {affine.channels} channels, {before.name} gives {operator.out_channels}",
        )
    elif values is not None:
        broken = tuple(values.refuse_affine(node.role.map))
        yield from broken
        if not broken and affine is not None:
            dtypes = (before.role.dtype, before.dtype or before.role.dtype)
            yield from values.refuse_operator(affine @ operator, dtypes)


def _channel_axis(before: Node, node: Node) -> int | None:
    """Where the operator's channels are in its output, from the front."""
    assert isinstance(before.role, Linear)
    rank = before.rank if before.rank is not None else node.rank
    return None if rank is None else rank + before.role.operator.channel_axis


def _channels(before: Node, node: Node) -> ChannelAffine | None:
    assert isinstance(node.role, Affine)
    return node.role.map.along(_channel_axis(before, node))


def _refuse_axis(before: Node, node: Node) -> Iterator[Refusal]:
    """Axes are compared as positions, never by their sizes, which may agree by accident."""
    assert isinstance(node.role, Affine)
    axis = _channel_axis(before, node)
    if axis is None and node.role.map.axes:
        yield Refusal(Code.UNKNOWN_RANK, f"the rank of {before.name}'s output is not known")
    elif _channels(before, node) is None:
        varies = ", ".join(map(str, node.role.map.axes))
        yield Refusal(
            Code.AXIS_MISMATCH,
            f"it varies along axis {varies}; {before.name}'s channels are {axis}",
        )


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    before = node.inputs[0]
    affine = _channels(before, node)
    assert affine is not None and isinstance(before.role, Linear)
    before.role = replace(before.role, operator=affine @ before.role.operator)
    take_out(graph, node)
    return Change(Outcome.FOLDED, before, before.name)


RULE = Rule("fold-affine-into-linear", match, refuse, rewrite)
