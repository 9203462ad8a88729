"""What became of each BatchNorm: the data. ``bnfx.report`` renders it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from bnfx.passes.details import GraphDetails
from bnfx.passes.refusals import Code, Refusal


class RewriteWarning(UserWarning):
    """A rewrite failed and the original graph is used in its place; please report it."""


class Outcome(str, Enum):
    """What a verdict says; exactly one a site."""

    FOLDED = "folded"
    MERGED = "merged"
    LOWERED = "lowered"
    SYNCHRONISED = "synchronised"
    KEPT = "kept"


@dataclass(frozen=True, eq=False)
class Site:
    """One BatchNorm or affine op of the user's; a module called twice is two sites, never equal.

    Args:
        name: the module's path, or the graph node's name where there is no module.
        kind: ``"batch_norm"``; ``"affine"`` for arithmetic with constants or parameters; or what
            an earlier fold left, ``"multiply_add"`` or ``"border"``.
        location: ``file:line`` of the call, or ``""``.
    """

    name: str
    kind: str
    location: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of one site.

    Args:
        site: the BatchNorm or affine op.
        outcome: folded, merged, lowered, synchronised or kept.
        target: the linear operator it was folded into, or the affine map it was merged with.
        refusals: why nothing better was done; empty for what was folded.
        error: what storing the folded numbers adds: the largest difference between a stored and an
            exact one (both after all folds), relative to the largest of its channel. ``None`` where
            nothing is stored, numbers are not known yet, or nobody gets the report.
    """

    site: Site
    outcome: Outcome
    target: str = ""
    refusals: tuple[Refusal, ...] = ()
    error: float | None = None


@dataclass(frozen=True)
class GraphReport:
    """The verdicts of one graph, in the order in which it runs.

    Args:
        verdicts: one a site.
        notes: what else a user should know, e.g. why a rewrite was abandoned.
        rewrites: how often each rule was applied, by name.
        weights: how the compiled graph gets folded weights: ``"live"``, ``"frozen"``, ``"traced"``;
            empty where nothing was folded or compiled.
        weights_reason: why in that way.
        details: what pictures of the graph show, if that was asked for.
        bytes_before, bytes_after: the constants (weights, statistics, ...) that the graph reads
            before and after the rewrite; 0 where nothing was stored, or it is not counted.
    """

    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    rewrites: Mapping[str, int] = field(default_factory=dict)
    weights: str = ""
    weights_reason: str = ""
    details: GraphDetails | None = None
    bytes_before: int = 0
    bytes_after: int = 0

    def agrees(self, other: GraphReport) -> bool:
        """Whether the same became of every site, by the same rewrites."""
        outcomes = [[v.outcome for v in report.verdicts] for report in (self, other)]
        return outcomes[0] == outcomes[1] and self.rewrites == other.rewrites

    def gives(self, code: Code) -> bool:
        """Whether any verdict was refused something with this code."""
        return any(r.code is code for verdict in self.verdicts for r in verdict.refusals)

    def count(self, outcome: Outcome, kind: str = "batch_norm") -> int:
        """Number of sites of this kind with this outcome."""
        return sum(v.outcome is outcome and v.site.kind == kind for v in self.verdicts)
