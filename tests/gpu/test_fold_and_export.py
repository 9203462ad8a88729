"""``bnfx.fold``, exported programs and ahead-of-time packages on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu.nets import Net, exact, picture, without_tf32
from support import relative
from torch import nn

import bnfx
import bnfx.export

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("keep", ["graph", "module"])
def test_fold(device: str, keep: str) -> None:
    model = Net() if keep == "graph" else nn.Sequential(Net().one, Net().norm, nn.ReLU())
    model, x = model.eval().to(device), picture(device)
    with torch.no_grad(), without_tf32():
        folded = bnfx.fold(model, x, keep=keep)
        assert relative(folded(x), exact(model, x)) < 1e-5
        assert all(tensor.device.type == device for tensor in folded.state_dict().values())
        assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


def test_exported_program(device: str) -> None:
    model, x = Net().to(device), picture(device)
    with torch.no_grad(), without_tf32():
        folded = bnfx.fold(torch.export.export(model, (x,)))
        assert relative(folded.module()(x), exact(model, x)) < 1e-5


def test_package(device: str, tmp_path: Path) -> None:
    """AOTInductor: compiled for the device, and run there."""
    model, x = Net().to(device), picture(device)
    with torch.no_grad(), without_tf32():
        path = bnfx.export.compile_package(model, (x,), tmp_path / "net.pt2")
        loaded = torch._inductor.aoti_load_package(str(path or tmp_path / "net.pt2"))
        assert relative(loaded(x), exact(model, x)) < 1e-4
