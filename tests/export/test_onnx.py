"""ONNX: what bnfx folded exports, holds no BatchNormalization, and answers alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from support import randomise, relative
from torch import nn
from torchvision.models import get_model

import bnfx


def export_onnx(folded: Any, x: torch.Tensor, path: Path) -> tuple[list[str], torch.Tensor]:
    """Ops in the file, and onnxruntime's answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and onnxscript's own
        args = (x,) if isinstance(folded, nn.Module) else ()
        torch.onnx.export(folded, args, str(path), dynamo=True, verbose=False)
    file = onnx.load(str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [node.op_type for node in file.graph.node], torch.from_numpy(answer)


def net() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return randomise(nn.Sequential(*layers, nn.MaxPool2d(2), nn.BatchNorm2d(8))).eval()


@pytest.mark.parametrize("form", ["module", "graph", "program", "decomposed"])
def test_every_form(form: str, tmp_path: Path) -> None:
    model, x = net(), torch.randn(2, 3, 9, 9)
    if form in ("program", "decomposed"):
        program = torch.export.export(model, (x,))
        folded: Any = bnfx.fold(program.run_decompositions() if form == "decomposed" else program)
    else:
        folded = bnfx.fold(model, x, keep=form)
    ops, answer = export_onnx(folded, x, tmp_path / "net.onnx")
    left = ops.count("BatchNormalization")
    assert left == (1 if form == "module" else 0)  # the one behind the pool has no module to go to
    with torch.no_grad():
        assert relative(answer, model(x)) < 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_models(name: str, tmp_path: Path) -> None:
    model, x = randomise(get_model(name, weights=None)).eval(), torch.randn(1, 3, 96, 96)
    folded = bnfx.fold(torch.export.export(model, (x,)))
    ops, answer = export_onnx(folded, x, tmp_path / "model.onnx")
    assert "BatchNormalization" not in ops
    with torch.no_grad():
        assert relative(answer, model(x)) < 1e-4
