"""Reports: what became of each BatchNorm of a model, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.report.terminal import render


@dataclass(frozen=True)
class Report:
    """What became of every BatchNorm and affine op of a model, with exactly one verdict for each.

    ``str(report)`` is for people (:meth:`to_text`); :meth:`to_json` says the same to programs.

    Args:
        graphs: one report for each captured graph of the model: one graph, or more where it has
            graph breaks.
    """

    graphs: tuple[GraphReport, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts, in the order in which the model runs."""
        return tuple(verdict for graph in self.graphs for verdict in graph.verdicts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a user should know."""
        return tuple(note for graph in self.graphs for note in graph.notes)

    @property
    def weights(self) -> tuple[tuple[str, str], ...]:
        """How compiled graphs get their folded weights (``"live"``, ``"frozen"`` or ``"traced"``),
        and why; each pair once.
        """
        pairs = ((graph.weights, graph.weights_reason) for graph in self.graphs if graph.weights)
        return tuple(dict.fromkeys(pairs))

    def count(self, outcome: Outcome | str, kind: str = "batch_norm") -> int:
        """Number of BatchNorms with this outcome, e.g. ``report.count("folded")``.

        With ``kind="affine"``, the number of affine ops: arithmetic with constants or parameters.
        """
        return sum(graph.count(Outcome(outcome), kind) for graph in self.graphs)

    @property
    def rewrites(self) -> dict[str, int]:
        """How often each rule was applied, by name."""
        total: Counter[str] = Counter()
        for graph in self.graphs:
            total.update(graph.rewrites)
        return dict(total)

    @staticmethod
    def merge(reports: Iterable[Report]) -> Report:
        """Combine the graphs of several reports in one."""
        return Report(tuple(graph for report in reports for graph in report.graphs))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; see :meth:`to_json` for its shape."""
        return {
            "version": 2,
            "summary": {outcome.value: self.count(outcome) for outcome in Outcome},
            "affine": {outcome.value: self.count(outcome, "affine") for outcome in Outcome},
            "rewrites": self.rewrites,
            "graphs": [
                {
                    "verdicts": list(map(_verdict, graph.verdicts)),
                    "weights": {"form": graph.weights, "reason": graph.weights_reason},
                    "notes": list(graph.notes),
                }
                for graph in self.graphs
            ],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """JSON text: ``version``, ``summary`` (outcome -> number of BatchNorms), ``affine`` (the
        same for affine ops), ``rewrites`` (rule -> how often) and ``graphs``.

        Each graph has ``weights`` (``form`` and ``reason``; empty where nothing was compiled),
        ``notes`` and ``verdicts``; a verdict has ``name``, ``kind``, ``location``,
        ``outcome``, ``target``, ``error`` and ``refusals`` (``code`` and ``reason``).
        """
        return json.dumps(self.to_dict(), indent=indent)

    def to_text(self, *, every: bool = False, width: int | None = None) -> str:
        """Text for people: the counts, what they mean, and why BatchNorms were left.

        Args:
            every: whether each site has a row; otherwise BatchNorms that were left for reasons with
                the same codes share one.
            width: the width of a line; the terminal's if ``None``.
        """
        return render(self.verdicts, self.weights, self.notes, every=every, width=width)

    def __str__(self) -> str:
        return self.to_text()


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.site.name,
        "kind": verdict.site.kind,
        "location": verdict.site.location,
        "outcome": verdict.outcome.value,
        "target": verdict.target,
        "error": verdict.error,
        "refusals": [
            {"code": refusal.code.value, "reason": refusal.reason} for refusal in verdict.refusals
        ],
    }
