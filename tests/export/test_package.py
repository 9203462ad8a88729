"""AOTInductor: packages that load where bnfx is not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from runtimes import package_error
from support import randomise
from torch import nn
from torch.export import Dim

import bnfx
from bnfx.export import compile_package, export_model


@pytest.mark.slow
def test_a_package_loads_where_bnfx_cannot_be_imported(tmp_path: Path) -> None:
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model = randomise(nn.Sequential(*layers)).eval()
    dynamic = ({0: Dim("batch", min=1, max=8)},)
    example = torch.randn(2, 3, 9, 9)
    package = compile_package(model, (example,), tmp_path / "net.pt2", dynamic_shapes=dynamic)
    assert package_error(package, model, torch.randn(5, 3, 9, 9)) < 1e-5
    # The folded convolution and nothing else: no statistic is in the package.
    with zipfile.ZipFile(package) as archive:
        assert not any(b"running_mean" in archive.read(name) for name in archive.namelist())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_mistakes(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.randn(1, 3, 4, 4)
    with pytest.raises(bnfx.TrainingModeError):
        compile_package(model, (x,), tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        compile_package(model.eval(), (x,), tmp_path / "net.so")
    with pytest.raises(bnfx.CaptureError, match=r"torch\.export cannot export Sequential"):
        export_model(model, (torch.randn(1, 5, 4, 4),))
    assert list(tmp_path.iterdir()) == []
