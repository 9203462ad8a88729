"""From PyTorch to Relax through ONNX: all folds, fewer kernels run, and the answer is torch's."""

from __future__ import annotations

import io
import warnings

import onnx
import pytest
import torch
import tvm
from relax.graphs import count
from relax.models import randomised, vision
from torch import nn
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

import bnfx
import bnfx.tvm
from bnfx.tvm.inspection import launches
from bnfx.tvm.relax import FoldBatchNorm, Runner

# Kernels that run, before and after, on the CPU (docs/tvm_relax.md).
MODELS = {"resnet18": (40, 23), "mobilenet_v2": (106, 54), "densenet121": (247, 188)}


def _exported(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """In training form: a plain export folds convolutions by itself."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on its older exporter
        torch.onnx.export(
            model,
            (x,),
            file,
            dynamo=False,
            opset_version=13,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
        )
    return onnx.load_from_string(file.getvalue())


def _small() -> nn.Module:
    """A stem, a depthwise block with a shortcut, and a concatenation."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
            self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8))
            self.norm = nn.BatchNorm2d(16)
            self.head = nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.nn.functional.relu6(self.stem(x))
            y = torch.cat([x, x + self.deep(x)], dim=1)
            return self.head(self.norm(y)).mean((2, 3))

    return Small()


def _kernels(model: nn.Module, size: int) -> tuple[bnfx.Report, tuple[int, int]]:
    """What was folded, and how many kernels run before and after; the answer must be torch's."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = randomised(model)(x).double()
    module = from_onnx(_exported(model, x))
    norms = count(module)["nn.batch_norm"]
    assert norms == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    fold = FoldBatchNorm()
    assert count(fold(module))["nn.batch_norm"] == 0
    report = fold.report
    assert report is not None
    assert len([v for v in report.verdicts if v.site.kind == "batch_norm"]) == norms
    target = tvm.target.Target("llvm")
    ours = bnfx.tvm.build(module, target)
    default = tvm.compile(module, target, relax_pipeline=relax.get_default_pipeline(target))
    answer = Runner(ours)(x).double()
    assert float((answer - expected).abs().max() / expected.abs().max()) < 1e-5
    return report, (launches(default).total(), launches(ours).total())


def test_a_small_network_of_all_kinds() -> None:
    report, (before, after) = _kernels(_small(), 12)
    assert report.count("folded") == 3
    assert after < before


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_torch(name: str) -> None:
    report, kernels = _kernels(vision(name), 64)
    assert kernels == MODELS[name]
    assert report.count("kept") == 0
