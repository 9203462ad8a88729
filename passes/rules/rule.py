"""What a rule is: a pattern, a guard that yields every reason not to, and a rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bnfx.passes.graph import Graph, Node
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.values import Values


@dataclass(frozen=True)
class Change:
    """What a rewrite did.

    Args:
        outcome: what became of the sites of the matched node.
        survivor: the node that was changed in place.
        target: into what the matched node's sites went.
        survivor_outcome: what became of the survivor's own sites, if anything did.
        absorbed: other nodes that are gone; their sites share the outcome.
        lowered: nodes that are multiply-adds now, besides the survivor.
        absorbing: nodes that took a part of the matched one's map, besides the survivor.
    """

    outcome: Outcome
    survivor: Node
    target: str = ""
    survivor_outcome: Outcome | None = None
    absorbed: tuple[Node, ...] = ()
    lowered: tuple[Node, ...] = ()
    absorbing: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One rewrite rule. No state passes from ``refuse`` to ``rewrite``, which gets the same
    numbers.

    Args:
        name: kebab-case; what ``rules=`` and reports call it.
        match: whether the rule is about this node at all.
        refuse: yields *every* reason not to rewrite a matched node; none means that the rewrite
            is proved exact. ``values`` is ``None`` where parameters have no numbers yet.
        rewrite: changes the graph; called only when ``refuse`` yielded nothing.
    """

    name: str
    match: Callable[[Node], bool]
    refuse: Callable[[Node, Values | None], Iterator[Refusal]]
    rewrite: Callable[[Graph, Node, Values | None], Change]
