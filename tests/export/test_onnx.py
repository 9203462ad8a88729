"""ONNX: what bnfx folded exports, holds no BatchNormalization, and answers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runtimes import run_onnx
from support import randomise, relative
from torch import nn

import bnfx


def net() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return randomise(nn.Sequential(*layers, nn.MaxPool2d(2), nn.BatchNorm2d(8))).eval()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("form", ["module", "graph", "program", "decomposed"])
def test_every_form(form: str, tmp_path: Path) -> None:
    model, x = net(), torch.randn(2, 3, 9, 9)
    if form in ("program", "decomposed"):
        program = torch.export.export(model, (x,))
        folded: Any = bnfx.fold(program.run_decompositions() if form == "decomposed" else program)
    else:
        folded = bnfx.fold(model, x, keep=form)
    ops, (answer,) = run_onnx(folded, x, tmp_path / "net.onnx")
    left = ops.count("BatchNormalization")
    assert left == (1 if form == "module" else 0)  # the one behind the pool has no module to go to
    with torch.no_grad():
        assert relative(answer, model(x)) < 1e-5
