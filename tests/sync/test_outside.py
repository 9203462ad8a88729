"""BatchNorms that Dynamo leaves outside of its graphs, on real ranks."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from support import randomise
from timm.layers import BatchNormAct2d
from torch import nn

import bnfx.backend  # puts the look-out into BatchNorm's forward
from sync.launch import run_cases


def test_outside_of_graphs() -> None:
    run_cases("cases_outside+cases_told", 2)


@pytest.mark.slow
def test_odd_ways_outside_of_graphs() -> None:
    run_cases("cases_parts+cases_strangers+cases_odd_ways+cases_edges+cases_unshared", 2)


@pytest.mark.heavy
def test_segmentation_on_four_ranks() -> None:
    run_cases("cases_outside", 4)


@pytest.mark.heavy
def test_outside_of_graphs_with_inductor(tmp_path: object) -> None:
    run_cases("cases_outside_inductor", 2, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_frozen_torchscript_runs() -> None:
    """It has no ``training``; and ``torch.fx`` may trace with TorchScript as a leaf."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    x, scripted = torch.ones(1, 3, 5, 5), torch.jit.script(model)
    torch.testing.assert_close(torch.jit.freeze(scripted)(x), model(x))

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, torch.jit.ScriptModule)

    graph = Tracer().trace(nn.Sequential(scripted))
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torch_is_as_it_was() -> None:
    """What reads BatchNorm's source, or signature, sees torch's own."""
    assert bnfx.backend.bnfx.__name__ == "bnfx"
    assert list(inspect.signature(nn.BatchNorm2d.forward).parameters) == ["self", "input"]
    assert "exponential_average_factor" in inspect.getsource(nn.BatchNorm2d.forward)
    x = torch.randn(2, 3, 6, 6)
    for norm in (nn.BatchNorm2d(4), BatchNormAct2d(4)):
        for training in (True, False):
            model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), norm)).train(training)
            expected = copy.deepcopy(model)(x)
            for way in (
                torch.jit.script,
                torch.fx.symbolic_trace,
                copy.deepcopy,
                lambda model: pickle.loads(pickle.dumps(model)),
                lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
            ):
                torch._dynamo.reset()
                torch.testing.assert_close(way(copy.deepcopy(model))(x), expected)
