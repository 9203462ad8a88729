"""The benchmark of engines: real processes, and what it concludes from their times."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any, cast

import pytest
import torch
from torch import nn

pytest.importorskip("openvino")
from bnfx.bench.engines import Contender, ratios
from bnfx.bench.on_engines.bench_models import MODELS, load
from bnfx.bench.on_models.twins import levelled_twin_of, twin_of


def _took(ms: float) -> Contender:
    return Contender(cast(Any, None), medians=[] if math.isnan(ms) else [ms])


def test_ratios_are_against_the_better_rival_and_skip_what_failed() -> None:
    rows = {
        ("a", 1): {"bnfx": _took(4), "onnxruntime": _took(2), "openvino": _took(8)},
        ("b", 1): {"bnfx": _took(1), "onnxruntime": _took(math.nan), "openvino": _took(2)},
        ("c", 1): {"bnfx": _took(math.nan), "onnxruntime": _took(1), "openvino": _took(2)},
    }
    (line,) = ratios(rows)
    assert line.startswith("bnfx / the better of ONNX Runtime and OpenVINO: ")
    assert line.endswith("geometric mean 1.00, worst 2.00, of 2")


def test_a_twin_has_no_batch_norm_and_usual_numbers() -> None:
    with torch.no_grad():
        model, x = load("crepe_tiny", 2)
        found = levelled_twin_of(model, x)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in found.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    (answer,) = found(x)
    assert answer.isfinite().all()
    assert 0.01 < float(answer.std()) < 1


def test_a_twin_keeps_the_activation_that_a_batch_norm_holds() -> None:
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    found, x = twin_of(model), torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        assert torch.equal(found(x), model[0](x).relu())


@pytest.mark.heavy
def test_the_command_prints_times_errors_and_ratios() -> None:
    engines = ("eager", "bnfx-openvino", "onnxruntime", "openvino")
    words = ["crepe_tiny", "--batch", "2", "--rounds", "2", "--calls", "2", "--engine", *engines]
    command = [sys.executable, "-m", "bnfx.bench.engines", *words]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    errors = out[out.index("error against") : out.index("seconds of")]
    (row,) = [line.split() for line in errors.splitlines() if line.startswith(" crepe_tiny, 2")]
    assert all(float(each) < 1e-5 for each in row[2:])
    assert len(row) == 2 + len(engines)
    assert "bnfx-openvino / the better of ONNX Runtime and OpenVINO: geometric mean" in out


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_models_answer_with_tensors(name: str) -> None:
    with torch.no_grad():
        model, x = load(name, 1)
        answers = model(x)
    assert all(each.isfinite().all() and each.std() > 0 for each in answers)
