"""What is written for Model Explorer: its own classes read it, and its own page shows it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dacite
import pytest
from model_explorer.config import ModelExplorerConfig
from model_explorer.graph_builder import GraphCollection
from model_explorer.node_data_builder import GraphNodeData
from typer.testing import CliRunner

import bnfx
from bnfx.cli import app
from bnfx.passes.report import GraphReport
from bnfx.report.model_explorer import graphs_json, node_data_json

STRICT = dacite.Config(strict=True)


@pytest.mark.slow
def test_its_own_classes_read_it(report: bnfx.Report) -> None:
    collection = dacite.from_dict(
        GraphCollection, json.loads(graphs_json(report.graphs, "net")), STRICT
    )
    assert [graph.id for graph in collection.graphs] == ["before", "after"]
    for graph in collection.graphs:
        ids = {node.id for node in graph.nodes}
        assert len(ids) == len(graph.nodes)
        sources = {edge.sourceNodeId for node in graph.nodes for edge in node.incomingEdges}
        assert sources < ids
    before, after = collection.graphs
    assert sum(node.label == "batch_norm" for node in before.nodes) == 6
    assert sum(node.label == "batch_norm" for node in after.nodes) == 1
    (stem,) = (node for node in after.nodes if ("name", "stem") in pairs(node))
    assert ("norm", "folded into stem") in pairs(stem)
    (kept,) = (node for node in after.nodes if node.label == "batch_norm")
    assert any(key == "why not" and "no-running-statistics" in value for key, value in pairs(kept))
    data = json.loads(node_data_json(report.graphs))
    assert set(data) == {"before", "after"}
    # Values are words; its class says numbers, its page takes both.
    numbered = {
        name: {**each, "results": {key: {**r, "value": 0} for key, r in each["results"].items()}}
        for name, each in data.items()
    }
    for name, graph in zip(data, collection.graphs, strict=True):
        results = dacite.from_dict(GraphNodeData, numbered[name], STRICT).results
        assert set(results) < {node.id for node in graph.nodes}
    verdicts = {result["value"] for result in data["before"]["results"].values()}
    assert verdicts == {"folded", "lowered", "merged", "kept"}


def pairs(node: Any) -> list[tuple[str, str]]:
    return [(each.key, each.value) for each in node.attrs]


def test_graphs_have_names_of_their_own(report: bnfx.Report) -> None:
    twice = json.loads(graphs_json((*report.graphs, *report.graphs, GraphReport()), "net"))
    assert [g["id"] for g in twice["graphs"]] == ["before 1", "after 1", "before 2", "after 2"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["explain", "net.py:make", "--input", "1x3x4x4", "--model-explorer"]
    done = CliRunner().invoke(app, [*words, "net.json"])
    assert done.exit_code == 0, done.output
    assert "net.node_data.json" in done.output
    refused = CliRunner().invoke(app, [*words, "net.txt"])
    assert (refused.exit_code, "must end in .json" in refused.stderr) == (2, True)
    return tmp_path


@pytest.fixture
def server(files: Path) -> Iterator[str]:
    """Its server, in a process of its own; yields the address of a page with the graphs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "model_explorer", "--no_open_in_browser", "--port", str(port)]
    with open(os.devnull, "w") as devnull:
        process = subprocess.Popen(command, cwd=files, stdout=devnull, stderr=devnull)
    try:
        address = f"http://localhost:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        config = ModelExplorerConfig()
        config.add_model_from_path(str(files / "net.json"))
        config.add_node_data_from_path(str(files / "net.node_data.json"))
        yield f"{address}/?data={config.to_url_param_value()}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.heavy
def test_its_own_page_shows_it(browser: Any, server: str) -> None:
    page = browser.new_page()
    page.goto(server)
    page.wait_for_selector("text=bnfx: verdicts", timeout=60_000)
    words = page.inner_text("body")
    assert "Unsupported" not in words
    assert "batch_norm\tfolded" in words, "the verdict stands beside the op"
    page.close()
