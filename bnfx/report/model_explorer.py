"""The graph before and after, as Google's Model Explorer opens it.

The formats are those of ``ai-edge-model-explorer``: a collection of graphs
(``model_explorer.graph_builder``) and node data (``model_explorer.node_data_builder``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bnfx.passes.details import Op
from bnfx.passes.report import GraphReport, Outcome, Verdict

_COLOURS = {
    Outcome.FOLDED: "#b7e4c7",
    Outcome.MERGED: "#b5e2ea",
    Outcome.LOWERED: "#f6dcae",
    Outcome.SYNCHRONISED: "#dccdf5",
    Outcome.KEPT: "#f7c0c5",
}


def node_data_path(path: Path) -> Path:
    """Where the verdicts go that belong to the graphs in ``path``."""
    return path.with_name(f"{path.stem}.node_data.json")


def graphs_json(graphs: Sequence[GraphReport], label: str) -> str:
    """A collection with the graphs before and after; modules are layers that open and close."""
    found = [
        {"id": name, "nodes": [_node(op, graph.verdicts) for op in ops]}
        for name, ops, graph in _sides(graphs)
    ]
    return json.dumps({"label": label, "graphs": found, "graphSorting": "name_desc"}, indent=1)


def node_data_json(graphs: Sequence[GraphReport]) -> str:
    """Verdicts as node data, by graph and node."""
    found = {}
    for name, ops, graph in _sides(graphs):
        results = {}
        for op in ops:
            outcomes = [graph.verdicts[site].outcome for site in op.sites]
            if outcomes:
                words = ", ".join(dict.fromkeys(outcome.value for outcome in outcomes))
                colour = _COLOURS[outcomes[0]]
                results[str(op.identity)] = {"value": words, "bgColor": colour}
        found[name] = {"name": "bnfx: verdicts", "results": results}
    return json.dumps(found, indent=1)


def _sides(graphs: Sequence[GraphReport]) -> Iterator[tuple[str, Sequence[Op], GraphReport]]:
    """Each side of each graph with a name; graphs of two ops, as between graph breaks, are left
    out if there are others.
    """
    detailed = [graph for graph in graphs if graph.details is not None]
    large = [graph for graph in detailed if graph.verdicts or len(graph.details.before) > 3]  # type: ignore[union-attr]
    shown = large or detailed
    for at, graph in enumerate(shown, start=1):
        number = f" {at}" if len(shown) > 1 else ""
        assert graph.details is not None
        yield f"before{number}", graph.details.before, graph
        yield f"after{number}", graph.details.after, graph


def _node(op: Op, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    owner, colon, _ = op.name.partition(":")
    path = owner if colon else op.name.rpartition(".")[0]
    sites = [verdicts[site] for site in op.sites]
    attributes = [("name", op.name)]
    if op.flops:
        attributes.append(("FLOPs", str(op.flops)))
    if op.weight_bytes:
        attributes.append(("bytes of weights", str(op.weight_bytes)))
    for verdict in sites:
        into = f" into {verdict.target}" if verdict.target else ""
        attributes.append((verdict.site.name, f"{verdict.outcome.value}{into}"))
        attributes += [("why not", str(refusal)) for refusal in verdict.refusals]
    node: dict[str, Any] = {
        "id": str(op.identity),
        "label": op.kind,
        "namespace": path.replace(".", "/"),
        "attrs": [{"key": key, "value": value} for key, value in attributes],
        "incomingEdges": [{"sourceNodeId": str(source)} for source in op.inputs],
    }
    if op.shape is not None:
        shape = "x".join(map(str, op.shape))
        attrs = [{"key": "shape", "value": shape}]
        node["outputsMetadata"] = [{"id": "0", "attrs": attrs}]
    if sites:
        node["style"] = {"backgroundColor": _COLOURS[sites[0].outcome]}
    return node
