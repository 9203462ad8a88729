"""Writes the page: what it says, in the template; what its scripts draw, as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from bnfx.errors import OptionError
from bnfx.extras import page_packages_missing
from bnfx.passes.refusals import MEANINGS
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.report.page.health import findings
from bnfx.report.page.page_data import carried_weights, page_data
from bnfx.report.wording import operations, sized

_SCRIPTS = ("selection.js", "graph_view.js", "graph_keys.js", "verdict_table.js", "channels.js")
_KINDS = {
    "batch_norm": "BatchNorm",
    "affine": "arithmetic",
    "multiply_add": "earlier multiply-add",
    "border": "earlier border",
}


@dataclass(frozen=True)
class Tile:
    """One figure: what it is, before and after; ``change`` in words."""

    label: str
    before: str
    after: str
    change: str = ""


def render_page(
    graphs: Sequence[GraphReport], notes: Sequence[str], summary: Sequence[str], title: str
) -> str:
    """The report as one HTML file, which loads nothing from elsewhere.

    Args:
        graphs: those of the report.
        notes: what else a user should know.
        summary: the counts and what they mean, a sentence each.
        title: of the page.

    Raises:
        OptionError: if a package that draws it is missing.
    """
    if (missing := page_packages_missing()) is not None:
        raise OptionError(missing)
    import jinja2
    from plotly.offline import get_plotlyjs

    norms = {
        graph.verdicts[site].site.name: norm
        for graph in graphs
        if graph.details is not None
        for site, norm in graph.details.norms.items()
    }
    verdicts = [verdict for graph in graphs for verdict in graph.verdicts]
    data = page_data(graphs)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(part("page.html.j2")).render(
        title=title,
        summary=summary,
        notes=notes,
        tiles=_tiles(graphs, verdicts),
        rows=[_row(verdict) for verdict in verdicts],
        outcomes=[o.value for o in Outcome if any(v.outcome is o for v in verdicts)],
        health=findings(norms, carried_weights(graphs)),
        has_numbers=bool(norms),
        graphs=_choices(data["graphs"]),
        channels=[(row, verdicts[row].site.name) for row in data["channels"]],
        style=part("page.css"),
        script="\n".join(map(part, _SCRIPTS)),
        plotly=get_plotlyjs(),
        # "<" would end the script early, or begin a comment, in a name such as "</script>".
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def part(name: str) -> str:
    """A file that goes into the page."""
    return (
        resources.files("bnfx.report.page")
        .joinpath("parts")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )


def _tiles(graphs: Sequence[GraphReport], verdicts: Sequence[Verdict]) -> list[Tile]:
    norms = [verdict for verdict in verdicts if verdict.site.kind == "batch_norm"]
    stays = sum(v.outcome in (Outcome.KEPT, Outcome.SYNCHRONISED) for v in norms)
    tiles = [Tile("BatchNorms", str(len(norms)), str(stays))]
    details = [graph.details for graph in graphs if graph.details is not None]
    if details:
        before = [op for each in details for op in each.before]
        after = [op for each in details for op in each.after]
        counts = [sum(o.kind not in ("input", "output") for o in ops) for ops in (before, after)]
        tiles.append(Tile("Operations", str(counts[0]), str(counts[1]), _change(*counts)))
        flops = [sum(op.flops for op in ops) for ops in (before, after)]
        if flops[0]:
            tiles.append(
                Tile("FLOPs of a call", operations(flops[0]), operations(flops[1]), _change(*flops))
            )
    stored = [sum(g.bytes_before for g in graphs), sum(g.bytes_after for g in graphs)]
    if stored[0]:
        tiles.append(Tile("Weights", sized(stored[0]), sized(stored[1]), _change(*stored)))
    errors = [verdict.error for verdict in verdicts if verdict.error is not None]
    if errors:
        tiles.append(Tile("Largest error of a fold", "", f"{max(errors):.0e}", "of a channel"))
    return tiles


def _change(before: float, after: float) -> str:
    if not before or before == after:
        return "unchanged"
    share = 100 * (after - before) / before
    digits = 0 if abs(share) >= 10 else 1
    if abs(share) < 0.05:
        return "almost unchanged"
    return f"{share:+.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _row(verdict: Verdict) -> dict[str, Any]:
    remedies = dict.fromkeys(MEANINGS[refusal.code].remedy for refusal in verdict.refusals)
    kept = verdict.outcome is Outcome.KEPT
    return {
        "name": verdict.site.name,
        "kind": _KINDS[verdict.site.kind],
        "outcome": verdict.outcome.value,
        "target": verdict.target,
        "error": "" if verdict.error is None else f"{verdict.error:.0e}",
        "location": verdict.site.location.rpartition("/site-packages/")[2],
        "refusals": [(refusal.code.value, refusal.reason) for refusal in verdict.refusals],
        "remedies": [each for each in remedies if kept and not each.startswith("None")],
    }


def _choices(graphs: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Graphs to choose from, the largest first; those of two ops or so are passed over."""
    sizes = [len(graph["before"]["nodes"]) for graph in graphs]
    norms = [graph["norms"] for graph in graphs]
    order = sorted(range(len(graphs)), key=lambda at: (-norms[at], -sizes[at]))
    shown = [at for at in order if norms[at] or sizes[at] > 3] or order[:1]
    return [
        (at, f"graph {at + 1}: {sizes[at]} ops, {graphs[at]['norms']} BatchNorms") for at in shown
    ]
