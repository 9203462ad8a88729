"""A process group of one rank costs nothing; see test_ranks.py."""

from __future__ import annotations

import torch
from torch import fx

import bnfx
from sync.counting import Graphs, counting, gathers
from sync.training import images, make


def case_eager() -> None:
    model = bnfx.convert_sync_batchnorm(make())
    (x,) = images([3])
    with counting() as counts:
        model(x).square().sum().backward()
    assert gathers(counts) == (0, 0)


def case_compiled() -> None:
    """The inner compiler gets the graph as it came."""
    graphs, reports = [], []

    def inner(module: fx.GraphModule, example_inputs: object) -> object:
        graphs.append(module)
        return module.forward

    (x,) = images([3])
    options = {"inner": inner, "report": reports.append, "sync": "require"}
    torch.compile(make(), backend="bnfx", options=options, fullgraph=True)(x)
    assert "sync_batch_norm" not in str(graphs[0].graph)
    assert reports[0].count("kept") == 3
    assert reports[0].count("synchronised") == 0


def case_our_module_compiled() -> None:
    inner = Graphs()
    (x,) = images([3])
    model = bnfx.convert_sync_batchnorm(make())
    run = torch.compile(model, backend="bnfx", options={"inner": inner}, fullgraph=True)
    run(x).square().sum().backward()
    assert inner.counts("forward") == inner.counts("backward") == (0, 0)
