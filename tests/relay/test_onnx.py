"""From PyTorch to Relay through ONNX: files that the main environment wrote, torch's answers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import TARGET, count, relative, run
from tvm import relay

import bnfx
import bnfx.tvm

FILES = Path(os.environ.get("BNFX_ONNX_FILES", Path(__file__).parents[2] / ".venv-relay/onnx"))


def data_of(name: str) -> dict[str, np.ndarray]:
    """An input, and torch's answer."""
    with np.load(FILES / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("name", "norms"), [("mixed", 6), ("resnet18", 20)])
def test_an_exported_network_folds_and_answers_as_torch_does(name: str, norms: int) -> None:
    assert (FILES / f"{name}.onnx").exists(), f"{FILES} is empty: run `make test-relay`"
    data = data_of(name)
    model = onnx.load(str(FILES / f"{name}.onnx"))
    module, params = relay.frontend.from_onnx(model, shape={"x": data["x"].shape})
    assert count(relay.transform.InferType()(module))["nn.batch_norm"] == norms
    reports: list[bnfx.Report] = []
    library = bnfx.tvm.build(module, TARGET, params, report=reports.append)
    assert reports[0].count("folded") == norms
    assert relative(run(library, {"x": data["x"]}), [data["answer"]]) < 1e-5


def test_reports_speak_of_the_exported_modules() -> None:
    data = data_of("mixed")
    model = onnx.load(str(FILES / "mixed.onnx"))
    module, params = relay.frontend.from_onnx(model, shape={"x": data["x"].shape})
    reports: list[bnfx.Report] = []
    bnfx.tvm.build(module, TARGET, params, report=reports.append)
    names = [v.site.name for v in reports[0].verdicts if v.site.kind == "batch_norm"]
    assert names[0] == "/first/BatchNormalization"
    assert names[-1] == "/head/head.1/BatchNormalization"
