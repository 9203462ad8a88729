"""L1 x + L2 x -> L x: one linear operator for parallel ones on one input.

Equation: ``(W1 x + b1) + (W2 x + b2) = (W1 + W2) x + (b1 + b2)``. Kernels of different sizes are
laid over one another by where their taps read; groups become the greatest common ones, with zeros
between. A branch may also be an affine map or the input itself (a kernel of one tap, diagonal over
channels) or an average pool that counts its zeros (a depthwise kernel). RepVGG, MobileOne, ACNet
and DBB are this.

Shapes: outputs of one shape, the same stride, and the same dilation where a kernel has several
taps. Exact in real arithmetic. Done where it costs less: a depthwise kernel beside a dense 1x1 does
not.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (2021), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine, LinearOperator, Scalar, diagonal
from bnfx.passes.crossing import Window
from bnfx.passes.graph import Add, Affine, Graph, Linear, Move, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules import cost
from bnfx.passes.rules.arms import Arms, arms_of, nodes_of, refuse_arms
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Add) and _arms(node) is not None


def _arms(node: Node) -> Arms | None:
    """At least one of them a linear operator."""
    return arms_of(node, _is_branch, lambda arm: isinstance(arm.role, Linear))


def _is_branch(node: Node) -> bool:
    return isinstance(node.role, (Linear, Affine)) or (
        isinstance(node.role, Move)
        and isinstance(node.role.movement, Window)
        and node.role.movement.convolution is not None
    )


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    arms = _arms(node)
    assert arms is not None
    nodes = nodes_of(arms)
    yield from refuse_arms(arms, node)
    linears = [n.role for n in nodes if isinstance(n.role, Linear)]
    if any(role.hides_padding for role in linears):
        yield Refusal(Code.UNSUPPORTED_FORM, "a branch pads its input by other than zeros")
    dtypes = {n.dtype for n in (*nodes, node)}
    if len(dtypes) > 1 or not {role.dtype for role in linears} >= dtypes - {None}:
        yield Refusal(Code.DTYPE_CHANGE, f"the branches compute in {sorted(map(str, dtypes))}")
        return
    if node.lays_out:
        yield Refusal(Code.UNSUPPORTED_FORM, "the sum has the memory layout of a transposed branch")
    try:
        merged = _merged(node, arms)
    except ValueError as error:
        yield Refusal(Code.UNSUPPORTED_FORM, str(error))
        return
    before = cost.addition(node) + sum(
        cost.linear(_operator(n, node, arms), arms[0].source, node) for n in nodes
    )
    after = cost.linear(merged, arms[0].source, node)
    if after > before:
        yield Refusal(Code.COSTS_MORE, f"one operator costs {after / before:.1f} times as much")
    if values is not None:
        yield from values.refuse_operator(merged, (linears[0].dtype,))


def _merged(node: Node, arms: Arms) -> LinearOperator:
    assert isinstance(node.role, Add)
    left, right = (
        _operator(arm.node, node, arms).then(Scalar(factor), Scalar(0.0))
        for arm, factor in zip(arms, node.role.factors, strict=True)
    )
    return left + right


def _operator(arm: Node | None, node: Node, arms: Arms) -> LinearOperator:
    """The linear operator that a summand is, of the kind of the one beside it.

    Raises:
        ValueError: if it is none.
    """
    if arm is not None and isinstance(arm.role, Linear):
        return arm.role.operator
    if arm is not None and isinstance(arm.role, Move):
        assert isinstance(arm.role.movement, Window)
        pooling = arm.role.movement.convolution
        assert pooling is not None
        return pooling
    model = next(n.role.operator for n in nodes_of(arms) if isinstance(n.role, Linear))
    affine = BroadcastAffine.identity()
    if arm is not None:
        assert isinstance(arm.role, Affine)
        affine = arm.role.map
    channels = affine.along(None if node.rank is None else node.rank + model.channel_axis)
    if channels is None:
        raise ValueError("a branch is an affine map along another axis than the channels")
    return diagonal(channels, model)


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    arms = _arms(node)
    assert arms is not None
    nodes = nodes_of(arms)
    linear = next(n for n in nodes if isinstance(n.role, Linear))
    assert isinstance(linear.role, Linear)
    node.role = replace(linear.role, operator=_merged(node, arms))
    node.name = linear.name
    graph.rewire(node, [arms[0].source])
    for arm in arms:
        graph.drop_unread(arm.last)
    return Change(Outcome.FOLDED, node, linear.name, absorbed=tuple(nodes))


RULE = Rule("merge-parallel-linear", match, refuse, rewrite)
