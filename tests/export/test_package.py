"""AOTInductor: packages that load where bnfx is not."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from support import randomise
from torch import nn
from torch.export import Dim
from torchvision.models import get_model

import bnfx
from bnfx.export import compile_package, export_model

BLOCKED = Path(__file__).with_name("blocked.py")


def error_elsewhere(package: Path, model: nn.Module, x: torch.Tensor) -> float:
    """The package's relative error in a process without bnfx."""
    with torch.no_grad():
        answers = {"inputs": [x], "expected": model(x)}
    torch.save(answers, package.with_suffix(".pt"))
    command = [sys.executable, str(BLOCKED), str(package), str(package.with_suffix(".pt"))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=package.parent)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def test_a_package_loads_where_bnfx_cannot_be_imported(tmp_path: Path) -> None:
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model = randomise(nn.Sequential(*layers)).eval()
    dynamic = ({0: Dim("batch", min=1, max=8)},)
    example = torch.randn(2, 3, 9, 9)
    package = compile_package(model, (example,), tmp_path / "net.pt2", dynamic_shapes=dynamic)
    assert error_elsewhere(package, model, torch.randn(5, 3, 9, 9)) < 1e-5
    # The folded convolution and nothing else: no statistic is in the package.
    with zipfile.ZipFile(package) as archive:
        assert not any(b"running_mean" in archive.read(name) for name in archive.namelist())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_models(name: str, tmp_path: Path) -> None:
    model = randomise(get_model(name, weights=None)).eval()
    x = torch.randn(1, 3, 96, 96)
    package = compile_package(model, (x,), tmp_path / "model.pt2")
    assert error_elsewhere(package, model, x) < 1e-4


def test_mistakes(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.randn(1, 3, 4, 4)
    with pytest.raises(bnfx.TrainingModeError):
        compile_package(model, (x,), tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        compile_package(model.eval(), (x,), tmp_path / "net.so")
    with pytest.raises(bnfx.CaptureError, match=r"torch\.export cannot export Sequential"):
        export_model(model, (torch.randn(1, 5, 4, 4),))
    assert list(tmp_path.iterdir()) == []
