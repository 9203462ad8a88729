"""Networks that train with more branches than they need: timm's own merging is the yardstick."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support import HEAVY, Capture, randomise, relative
from timm.utils.model import reparameterize_model
from torch import fx, nn

SIZES = {"repvgg_a0": 64, "mobileone_s0": 64, "fastvit_t8": 128, "repvit_m1": 64}


def convolutions(module: fx.GraphModule) -> int:
    calls = module.graph.find_nodes(op="call_function", target=torch.conv2d)
    return len(calls)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "repvgg_a0",
        "fastvit_t8",
        *(pytest.param(n, marks=HEAVY) for n in ("mobileone_s0", "repvit_m1")),
    ],
)
def test_no_more_convolutions_than_timm_leaves(name: str) -> None:
    model = randomise(timm.create_model(name)).eval()
    merged = reparameterize_model(copy.deepcopy(model))
    theirs = sum(isinstance(module, nn.Conv2d) for module in merged.modules())
    model.double()
    x = torch.randn(1, 3, SIZES[name], SIZES[name], dtype=torch.float64)
    capture = Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-10
    (graph,), (report,) = capture.graphs, capture.reports
    assert convolutions(graph) <= theirs
    assert capture.batch_norms() == 0
    assert report.count("kept") == report.count("lowered") == 0
    assert report.rewrites["merge-parallel-linear"] > 0
