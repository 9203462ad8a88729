"""What became of each BatchNorm: the data. ``bnfx.report`` renders it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bnfx.passes.refusals import Code, Refusal


class Outcome(str, Enum):
    """What a verdict says; exactly one a site."""

    FOLDED = "folded"
    MERGED = "merged"
    LOWERED = "lowered"
    SYNCHRONISED = "synchronised"
    KEPT = "kept"


@dataclass(frozen=True, eq=False)
class Site:
    """One BatchNorm call of the user's model; a module called twice is two sites, never equal.

    Args:
        name: the module's path, or the graph node's name where there is no module.
        kind: ``"batch_norm"``.
        location: ``file:line`` of the call, or ``""``.
    """

    name: str
    kind: str
    location: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of one site.

    Args:
        site: the BatchNorm.
        outcome: folded, merged, lowered, synchronised or kept.
        target: the linear operator it was folded into, or the affine map it was merged with.
        refusals: why nothing better was done; empty for what was folded.
    """

    site: Site
    outcome: Outcome
    target: str = ""
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class GraphReport:
    """The verdicts of one graph, in the order of its BatchNorms.

    Args:
        verdicts: one a site.
        notes: what else a user should know, e.g. why a rewrite was abandoned.
    """

    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    def gives(self, code: Code) -> bool:
        """Whether any verdict was refused something with this code."""
        return any(r.code is code for verdict in self.verdicts for r in verdict.refusals)

    def count(self, outcome: Outcome) -> int:
        """Number of sites with this outcome."""
        return sum(verdict.outcome is outcome for verdict in self.verdicts)
