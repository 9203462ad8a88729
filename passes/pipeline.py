"""Applies rules to a fixed point and says what became of every BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

from bnfx.passes.graph import Affine, Graph, GraphError, Node
from bnfx.passes.numerics import Values
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict
from bnfx.passes.rules import RULES, Rule

# Reasons that only say "this rule is about another shape of graph": no news where another rule
# has a reason, or an outcome, of its own.
_TRIVIAL = frozenset({Code.NO_AFFINE_BEFORE})


class RuleError(RuntimeError):
    """A rule raised, or left a broken graph; the caller must use the original graph."""

    def __init__(self, rule: Rule, node: Node, error: Exception) -> None:
        super().__init__(f"rule {rule.name} failed at {node.name}: {error!r}")
        self.rule = rule


def run(graph: Graph, rules: Sequence[Rule] = RULES, values: Values | None = None) -> GraphReport:
    """Rewrite ``graph`` in place until no rule applies.

    A rule is tried only where every rule before it is at its fixed point. Each rewrite removes an
    affine node or lowers it for good, so twice their number bounds the rewrites; that is enforced.

    Args:
        graph: from a lifter.
        rules: in order of preference.
        values: the parameters' numbers, or ``None`` where they are not known yet.

    Raises:
        RuleError: if a rule raises or breaks the graph. ``graph`` is then worthless.
        GraphError: if the fixed point is not reached within the bound.
    """
    sites = [site for node in graph for site in node.sites]
    lifted = {site: node.refusals for node in graph for site in node.sites}
    verdicts: dict[Site, Verdict] = {}
    reasons: dict[Site, dict[str, tuple[Refusal, ...]]] = {site: {} for site in sites}

    budget = 2 * sum(isinstance(node.role, Affine) for node in graph)
    position = 0
    while position < len(rules):
        changed = _sweep(graph, rules[position], values, reasons, verdicts)
        budget -= changed
        if budget < 0:
            raise GraphError("the rules did not reach a fixed point")
        position = 0 if changed else position + 1
    graph.verify()

    return GraphReport(
        tuple(_verdict(site, verdicts, reasons[site], lifted[site]) for site in sites)
    )


def _sweep(
    graph: Graph,
    rule: Rule,
    values: Values | None,
    reasons: dict[Site, dict[str, tuple[Refusal, ...]]],
    verdicts: dict[Site, Verdict],
) -> int:
    """Try ``rule`` at every node once, in order; returns the number of rewrites."""
    changed = 0
    for node in list(graph):
        try:
            if node not in graph or not rule.match(node):
                continue
            refusals = tuple(dict.fromkeys(rule.refuse(node, values)))
            if refusals:
                for site in node.sites:
                    reasons[site][rule.name] = refusals
                continue
            change = rule.rewrite(graph, node)
            graph.verify([change.survivor, *change.survivor.users])
        except Exception as error:
            raise RuleError(rule, node, error) from error
        changed += 1
        for site in node.sites:
            verdicts[site] = Verdict(site, change.outcome, change.target)
        if change.survivor_outcome is not None:
            for site in change.survivor.sites:
                verdicts[site] = Verdict(site, change.survivor_outcome)
    return changed


def _verdict(
    site: Site,
    verdicts: dict[Site, Verdict],
    reasons: dict[str, tuple[Refusal, ...]],
    lifted: tuple[Refusal, ...],
) -> Verdict:
    """What the rules decided; else "kept", with every reason."""
    verdict = verdicts.get(site, Verdict(site, Outcome.KEPT))
    if verdict.outcome in (Outcome.FOLDED, Outcome.MERGED):
        return verdict
    every = dict.fromkeys((*lifted, *(refusal for some in reasons.values() for refusal in some)))
    telling = tuple(refusal for refusal in every if refusal.code not in _TRIVIAL)
    if not telling and verdict.outcome is Outcome.KEPT:
        telling = (Refusal(Code.RULE_DISABLED, "no chosen rule applies to it"),)
    return Verdict(site, verdict.outcome, verdict.target, telling)
