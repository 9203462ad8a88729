"""The data in the page: what its scripts draw."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from bnfx.passes.details import GraphDetails, Op
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.report.page.layered import Placed, place

# Which verdict an op shows that carries out several sites: the one that asks for most attention.
_URGENT = (Outcome.KEPT, Outcome.LOWERED, Outcome.SYNCHRONISED, Outcome.MERGED, Outcome.FOLDED)


def page_data(graphs: Sequence[GraphReport]) -> dict[str, Any]:
    """What the scripts need, as JSON takes it.

    ``rows`` are verdicts in the order of the table. Each graph has ``before`` and ``after``, with
    ``nodes`` and ``edges``; a node lists the ``rows`` that it carries out. ``channels`` has, by the
    row, the scale of a BatchNorm and the weights it went into.
    """
    data: dict[str, Any] = {"rows": [], "graphs": [], "channels": {}}
    first = 0
    for graph in graphs:
        if graph.details is not None:
            data["graphs"].append(_graph(graph.details, graph.verdicts, first))
            data["channels"].update(_channels(graph.details, first))
        at = len(data["graphs"]) - 1 if graph.details is not None else -1
        for verdict in graph.verdicts:
            row = {"name": verdict.site.name, "outcome": verdict.outcome.value, "graph": at}
            data["rows"].append(row)
        first += len(graph.verdicts)
    return data


def _graph(details: GraphDetails, verdicts: Sequence[Verdict], first: int) -> dict[str, Any]:
    norms = sum(verdict.site.kind == "batch_norm" for verdict in verdicts)
    return {
        "norms": norms,
        "before": _side(details.before, verdicts, first),
        "after": _side(details.after, verdicts, first),
    }


def _side(ops: Sequence[Op], verdicts: Sequence[Verdict], first: int) -> dict[str, Any]:
    placed = place(ops)
    return {
        "width": round(placed.width),
        "height": round(placed.height),
        "nodes": [_node(op, placed, verdicts, first) for op in ops],
        "edges": [
            [edge.source, edge.target, [round(c) for bend in edge.bends for c in bend], edge.is_far]
            for edge in placed.edges
        ],
    }


def _node(op: Op, placed: Placed, verdicts: Sequence[Verdict], first: int) -> dict[str, Any]:
    x, y = placed.centres[op.identity]
    outcomes = [verdicts[site].outcome for site in op.sites]
    return {
        "id": op.identity,
        "name": op.name,
        "kind": op.kind,
        "shape": "" if op.shape is None else " \N{MULTIPLICATION SIGN} ".join(map(str, op.shape)),
        "inputs": list(op.inputs),
        "x": round(x),
        "y": round(y),
        "outcome": next((each.value for each in _URGENT if each in outcomes), ""),
        "rows": [first + site for site in op.sites],
    }


def _channels(details: GraphDetails, first: int) -> dict[int, dict[str, Any]]:
    carries = {site: op for op in details.after for site in op.sites}
    found: dict[int, dict[str, Any]] = {}
    for site, norm in details.norms.items():
        op = carries.get(site)
        found[first + site] = {"scale": packed(norm.scale)}
        if op is not None and op.largest:
            found[first + site].update(
                into=op.name, largest=packed(op.largest), mean=packed(op.mean)
            )
    return found


def packed(numbers: Sequence[float]) -> str:
    """Little-endian float32 in base64: a third of what JSON takes, and NaN and infinity as well."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *map(_single, numbers))).decode()


def _single(number: float) -> float:
    """The number, or infinity where float32 has none so large."""
    return number if abs(number) < 3.4e38 or number != number else float("inf") * number


def carried_weights(graphs: Sequence[GraphReport]) -> Mapping[str, Op]:
    """The ops that store folded weights, by name."""
    details = [graph.details for graph in graphs if graph.details is not None]
    return {op.name: op for each in details for op in each.after if op.sites and op.largest}
