"""Applies rules to a fixed point and says what became of every BatchNorm."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bnfx.passes.algebra import Expression
from bnfx.passes.graph import Affine, Graph, GraphError, Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Outcome, RewriteWarning, Site, Verdict
from bnfx.passes.rules.guards import multiply_add_dtype
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.user_warnings import warn
from bnfx.passes.values import Values

log = logging.getLogger("bnfx")

# Reasons that only say "this rule is about another shape of graph": no news where another rule
# has a reason, or an outcome, of its own.
_TRIVIAL = frozenset({Code.NO_AFFINE_BEFORE, Code.NOTHING_BETWEEN, Code.NO_LINEAR_AFTER})
# What a rule says of its one step, where move-affine says how far it got.
_PASSED_ON = {
    "fold-affine-into-linear": Code.NO_LINEAR_BEFORE,
}


class RuleError(RuntimeError):
    """A rule raised, or left a broken graph; the caller must use the original graph."""

    def __init__(self, rule: Rule, node: Node, error: Exception) -> None:
        super().__init__(f"rule {rule.name} failed at {node.name}: {error!r}")
        self.rule = rule


def warn_of_failure(error: Exception, what: str, original: str) -> str:
    """Tell the user that a rewrite failed, and what is used in its place; call it in ``except``.

    Args:
        what: was tried; a rule that broke is named instead.
        original: ``"graph"``, ``"function"`` or ``"program"``.

    Returns:
        The message.
    """
    if isinstance(error, RuleError):
        what = f"rule {error.rule.name}"
    message = f"bnfx: {what} failed and the original {original} is used: {error!r}"
    warn(message, RewriteWarning)
    log.info(message, exc_info=True)
    return message


def run(
    graph: Graph,
    rules: Sequence[Rule] = RULES,
    values: Values | None = None,
    carried: dict[Node, list[Site]] | None = None,
) -> GraphReport:
    """Rewrite ``graph`` in place until no rule applies.

    A rule is tried only where every rule before it is at its fixed point. Each rewrite takes a node
    out, lowers one for good, or trades one for a border that no rule takes up again; so the number
    of rewrites is bounded by the size of the graph, which is enforced.

    Args:
        graph: from a lifter.
        rules: in order of preference.
        values: the parameters' numbers, or ``None`` where they are not known yet.
        carried: is filled with the sites that each node carries out in the end.

    Raises:
        RuleError: if a rule raises or breaks the graph. ``graph`` is then worthless.
        GraphError: if the fixed point is not reached within the bound.
    """
    ledger = _Ledger(graph)
    budget = 4 * len(graph)
    position = 0
    while position < len(rules):
        changed = _sweep(graph, rules[position], values, ledger)
        budget -= changed
        if budget < 0:
            raise GraphError("the rules did not reach a fixed point")
        position = 0 if changed else position + 1
    graph.verify()
    report = ledger.report(values)
    if carried is not None:
        carried.update(ledger.carries)
    if values is not None:
        values.keep_only({e for node in graph for e in _written(node)})
    return report


def _sweep(graph: Graph, rule: Rule, values: Values | None, ledger: _Ledger) -> int:
    """Try ``rule`` at every node once, in order; returns the number of rewrites."""
    changed = 0
    for node in list(graph):
        try:
            if node not in graph or not rule.match(node):
                continue
            refusals = tuple(dict.fromkeys(rule.refuse(node, values)))
            if refusals:
                ledger.refused(node, rule, refusals)
                continue
            change = rule.rewrite(graph, node, values)
            graph.verify([change.survivor, *change.survivor.users])
        except Exception as error:
            raise RuleError(rule, node, error) from error
        changed += 1
        ledger.changed(node, rule, change)
        if values is not None:
            _put(values, graph, (change.survivor, *change.absorbing, *change.absorbed))
    return changed


def _put(values: Values, graph: Graph, nodes: Iterable[Node]) -> None:
    """Tell which linear operators stand where, after a rewrite of ``nodes``."""
    for node in dict.fromkeys(nodes):
        role = node.role if node in graph else None
        values.put(node, role.operator if isinstance(role, Linear) else None)


def _written(node: Node) -> tuple[Expression | None, ...]:
    """What a node's role would store."""
    match node.role:
        case Linear(operator):
            return operator.weight, operator.bias
        case Affine(affine):
            return affine.scale, affine.shift
    return ()


class _Ledger:
    """What became of each site so far, and which node carries it out now."""

    def __init__(self, graph: Graph) -> None:
        self._sites = [site for node in graph for site in node.sites]
        self._lifted = {site: node.refusals for node in graph for site in node.sites}
        self._reasons: dict[Site, dict[str, tuple[Refusal, ...]]] = {s: {} for s in self._sites}
        self._verdicts: dict[Site, Verdict] = {}
        self.carries: dict[Node, list[Site]] = {
            node: list(node.sites) for node in graph if node.sites
        }
        self._counts: Counter[str] = Counter()

    def refused(self, node: Node, rule: Rule, refusals: tuple[Refusal, ...]) -> None:
        for site in node.sites:
            self._reasons[site][rule.name] = refusals

    def changed(self, node: Node, rule: Rule, change: Change) -> None:
        self._counts[rule.name] += 1
        for gone in (node, *change.absorbed):
            for site in gone.sites:
                self._verdicts[site] = Verdict(site, change.outcome, change.target)
            if gone is not change.survivor:
                moved = self.carries.pop(gone, [])
                self.carries.setdefault(change.survivor, []).extend(moved)
        for target in change.lowered:
            for site in target.sites:
                self._verdicts[site] = Verdict(site, Outcome.LOWERED)
        if change.survivor_outcome is not None:
            for site in change.survivor.sites:
                self._verdicts[site] = Verdict(site, change.survivor_outcome)

    def report(self, values: Values | None) -> GraphReport:
        """One verdict a site, in the order of the graph."""
        errors: dict[Site, float | None] = {}
        for node, sites in self.carries.items() if values is not None and values.measured else ():
            errors.update(dict.fromkeys(sites, _rounding(node, values)))
        verdicts = (self._verdict(site, errors.get(site)) for site in self._sites)
        return GraphReport(tuple(verdicts), rewrites=dict(self._counts))

    def _verdict(self, site: Site, error: float | None) -> Verdict:
        """What the rules decided; else "kept", with every reason."""
        verdict = self._verdicts.get(site, Verdict(site, Outcome.KEPT))
        if verdict.outcome in (Outcome.FOLDED, Outcome.MERGED):
            return replace(verdict, error=error)
        telling = tuple(_telling(self._lifted[site], self._reasons[site]))
        if not telling and verdict.outcome is Outcome.KEPT:
            telling = (Refusal(Code.RULE_DISABLED, "no chosen rule applies to it"),)
        if verdict.outcome is Outcome.KEPT:
            error = None
        return Verdict(site, verdict.outcome, verdict.target, telling, error)


def _telling(
    lifted: tuple[Refusal, ...], reasons: Mapping[str, tuple[Refusal, ...]]
) -> Iterator[Refusal]:
    """The reasons that tell a user something; each code by the first rule that gave it."""
    told = {refusal.code for refusal in lifted}
    yield from lifted
    ends: list[Refusal] = []
    for rule, refusals in reasons.items():
        passed_on = {_PASSED_ON.get(rule)} if "move-affine" in reasons else set()
        news = [refusal for refusal in refusals if refusal.code not in told | passed_on]
        ends += [refusal for refusal in news if refusal.code is Code.NO_LINEAR_AFTER]
        telling = [refusal for refusal in news if refusal.code not in _TRIVIAL]
        yield from telling
        told |= {refusal.code for refusal in telling}
    if not told:
        yield from ends


def _rounding(node: Node, values: Values | None) -> float | None:
    """The relative error of storing what ``node`` carries out; see ``Verdict.error``."""
    assert values is not None
    if isinstance(node.role, Linear):
        operator = node.role.operator
        return values.rounding(operator.weight, operator.bias, dtype=node.role.dtype)
    if isinstance(node.role, Affine) and node.role.lowered:
        affine = node.role.map
        return values.rounding(affine.scale, affine.shift, dtype=multiply_add_dtype(node.dtype))
    return None
