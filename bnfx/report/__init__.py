"""Reports: what became of each BatchNorm of a model, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.report.terminal import render, sentences


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

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of the constants (weights, statistics, ...) that rewritten graphs read, before and
        after.
        """
        before = sum(graph.bytes_before for graph in self.graphs)
        return before, sum(graph.bytes_after for graph in self.graphs)

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
                    "weights": {
                        "form": graph.weights,
                        "reason": graph.weights_reason,
                        "bytes_before": graph.bytes_before,
                        "bytes_after": graph.bytes_after,
                    },
                    "notes": list(graph.notes),
                }
                for graph in self.graphs
            ],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """JSON text: ``version``, ``summary`` (outcome -> number of BatchNorms), ``affine`` (the
        same for affine ops), ``rewrites`` (rule -> how often) and ``graphs``.

        Each graph has ``weights``, ``notes`` and ``verdicts``. ``weights`` has ``form`` and
        ``reason``, which are empty where nothing was compiled, and ``bytes_before`` and
        ``bytes_after``, the constants that the graph reads. A verdict has ``name``, ``kind``,
        ``location``, ``outcome``, ``target``, ``error`` and ``refusals`` (``code`` and ``reason``).
        """
        return json.dumps(self.to_dict(), indent=indent)

    def to_text(self, *, every: bool = False, width: int | None = None) -> str:
        """Text for people: the counts, what they mean, and why BatchNorms were left.

        Args:
            every: whether each site has a row; otherwise BatchNorms that were left for reasons with
                the same codes share one.
            width: the width of a line; the terminal's if ``None``.
        """
        return render(
            self.verdicts,
            self.weights,
            self.notes,
            every=every,
            width=width,
            weight_bytes=self.weight_bytes,
        )

    def to_html(self, title: str = "What became of the BatchNorms") -> str:
        """One HTML file, which loads nothing from elsewhere: the graph before and after, all
        verdicts, plots of each layer's channels, and what the numbers say of the BatchNorms.

        Graphs and plots are there if the report has details: :func:`bnfx.explain` gives them, and
        so does ``torch.compile`` with ``options={"report": "report.html"}``.

        Args:
            title: of the page.

        Raises:
            OptionError: if the packages that draw it are missing (``pip install "bnfx[report]"``).
        """
        from bnfx.report.page.page_html import render_page

        summary = sentences(self.verdicts, self.weight_bytes)
        return render_page(self.graphs, self.notes, summary, title)

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
