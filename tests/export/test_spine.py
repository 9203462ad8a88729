"""The models people deploy: exported, packaged ahead of time, in ONNX; each answers alike."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from deployed_models import DETECTORS, OTHERS, SPINE, Dense, detector
from runtimes import package_error, run_onnx, worst
from support import randomise
from torch import nn
from torch.export import ExportedProgram

import bnfx
from bnfx.export import compile_package
from bnfx.passes.report import Outcome

LIGHT = ("timm-efficientnet_lite0",)
NAMES = [
    name if name in LIGHT else pytest.param(name, marks=pytest.mark.heavy)
    for name in (*SPINE, *OTHERS, *DETECTORS)
]
HEAVY = [pytest.param(name, marks=pytest.mark.heavy) for name in (*SPINE, *OTHERS, *DETECTORS)]


def ready(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    """Model, input, and how many of its BatchNorms fold; -1 for all."""
    torch.manual_seed(0)
    if name in DETECTORS:
        return randomise(Dense(detector(name))).eval(), torch.rand(1, 3, 160, 160), -1
    build, shape, folded = (SPINE | OTHERS)[name]
    return randomise(build()).eval(), torch.randn(shape), folded


def exported(model: nn.Module, x: torch.Tensor) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (x,))


@pytest.mark.parametrize("name", NAMES)
def test_export_round_trip(name: str) -> None:
    model, x, folds = ready(name)
    program = exported(model, x)
    folded, report = bnfx.fold(program), bnfx.explain(program)
    file = io.BytesIO()
    torch.export.save(folded, file)
    file.seek(0)
    loaded = torch.export.load(file)
    with torch.no_grad():
        assert worst(loaded.module()(x), model(x)) < 1e-4
    calls = [node for node in loaded.graph.nodes if node.op == "call_function"]
    assert [node for node in calls if "batch_norm" in str(node.target)] == []
    sites = [verdict for verdict in report.verdicts if verdict.site.kind == "batch_norm"]
    assert sum("batch_norm" in str(node.target) for node in program.graph.nodes) == len(sites)
    assert report.count(Outcome.KEPT) == 0
    outcomes = [verdict.outcome for verdict in sites]
    assert outcomes.count(Outcome.FOLDED) == (folds if folds >= 0 else len(sites))
    # What no node reads (the auxiliary heads of inception and googlenet) is no business of a fold.
    idle = {node.name for node in program.graph.find_nodes(op="placeholder") if not node.users}
    kept = {spec.target for spec in program.graph_signature.input_specs if spec.arg.name in idle}
    if not report.count(Outcome.LOWERED):
        assert {key for key in loaded.state_dict if "running" in key} <= kept


@pytest.mark.parametrize("name", HEAVY)
def test_package(name: str, tmp_path: Path) -> None:
    model, x, _ = ready(name)
    package = compile_package(model, (x,), tmp_path / "model.pt2")
    assert package_error(package, model, x) < 1e-4


@pytest.mark.parametrize("name", HEAVY)
def test_onnx(name: str, tmp_path: Path) -> None:
    model, x, _ = ready(name)
    ops, answers = run_onnx(bnfx.fold(exported(model, x)), x, tmp_path / "model.onnx")
    assert "BatchNormalization" not in ops
    with torch.no_grad():
        assert worst(answers, model(x)) < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize("name", DETECTORS)
def test_whole_detectors_cannot_be_exported(name: str) -> None:
    """Torch's limit: NMS goes one way or another by the number of boxes. docs/export.md says so."""
    with pytest.raises(Exception, match="data-dependent expression"), torch.no_grad():
        torch.export.export(detector(name), ([torch.rand(3, 160, 160)],))
