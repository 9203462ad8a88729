"""The two summands of an addition as functions of one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bnfx.passes.graph import Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.guards import behind_identities, original


@dataclass(frozen=True)
class Arm:
    """One summand as a function of ``source``: by ``node``, or ``None`` for the source itself.

    ``last`` is the summand; it may be a copy of what ``node`` gives.
    """

    source: Node
    node: Node | None
    last: Node


Arms = tuple[Arm, Arm]


def nodes_of(arms: Arms) -> list[Node]:
    """What they are made by; the source itself is made by nothing."""
    return [arm.node for arm in arms if arm.node is not None]


def refuse_arms(arms: Arms, node: Node) -> Iterator[Refusal]:
    """Reasons why ``node``, their sum, cannot be computed from the source in one step, whatever
    they are.
    """
    source = arms[0].source
    if source.pinned:
        yield Refusal(Code.MUTATED_IN_GRAPH, f"the graph may write to {source.name}")
    if any(each.region != node.region for each in nodes_of(arms)):
        yield Refusal(
            Code.DTYPE_CHANGE, "autocast begins or ends between the branches and their sum"
        )


def arms_of(
    node: Node, takes: Callable[[Node], bool], needs: Callable[[Node], bool]
) -> Arms | None:
    """Two summands over one input.

    Args:
        node: an addition, the only reader of its arms.
        takes: whether an arm may be such a node.
        needs: whether it is one of which there must be one at least.
    """
    one, other = (tuple(_readings(value, node, takes)) for value in node.inputs)
    for left in one:
        for right in other:
            needed = any(arm.node is not None and needs(arm.node) for arm in (left, right))
            if left.source is right.source and needed:
                return left, right
    return None


def _readings(last: Node, node: Node, takes: Callable[[Node], bool]) -> Iterator[Arm]:
    value = behind_identities(last, node)
    if takes(value) and len(value.data_users()) == 1 and not value.pinned:
        yield Arm(original(value.inputs[0]), value, last)
    yield Arm(original(last), None, last)
