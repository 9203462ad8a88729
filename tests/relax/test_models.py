"""Whole models: no batch_norm is left, fewer kernels run, and the answer is torch's."""

from __future__ import annotations

import pytest
import torch
import tvm
from relax.graphs import count
from relax.models import randomised, vision
from tvm import relax

import bnfx.tvm
from bnfx.tvm.inspection import launches
from bnfx.tvm.relax import FoldBatchNorm, Runner

heavy = pytest.mark.heavy
# Kernels that run, before and after, on the CPU (docs/tvm_relax.md).
MODELS = [
    pytest.param("resnet18", (40, 23), id="resnet18"),
    pytest.param("mobilenet_v2", (106, 54), id="mobilenet_v2", marks=heavy),
    pytest.param("resnet50", (105, 56), id="resnet50", marks=heavy),
    pytest.param("densenet121", (247, 188), id="densenet121", marks=heavy),
    pytest.param("deeplabv3_resnet50", (116, 65), id="deeplabv3_resnet50", marks=heavy),
    pytest.param("efficientnet_b0", (148, 99), id="efficientnet_b0", marks=heavy),
    pytest.param("repvgg_a0", (68, 24), id="repvgg_a0", marks=heavy),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernels"), MODELS)
def test_a_model_is_torch(name: str, kernels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = randomised(vision(name))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x).double()
    module = bnfx.tvm.from_torch(model, x)
    before = count(module)["nn.batch_norm"]
    assert before > 0

    fold = FoldBatchNorm()
    folded = fold(module)
    assert count(folded)["nn.batch_norm"] == 0
    assert fold.report.count("folded") + fold.report.count("lowered") == before
    target = tvm.target.Target("llvm")
    executable = bnfx.tvm.build(module, target)
    default = tvm.compile(module, target, relax_pipeline=relax.get_default_pipeline(target))
    assert (launches(default).total(), launches(executable).total()) == kernels
    (ours,) = Runner(executable)(x)
    error = (ours.double() - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-5
