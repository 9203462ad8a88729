"""``bnfx.explain`` on models with parts that no capture reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnfx


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_scripted_child_is_named() -> None:
    child = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    scripted = torch.jit.trace(child, torch.ones(1, 3, 4, 4))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), scripted).eval()
    report = bnfx.explain(model, torch.ones(1, 3, 4, 4))
    notes = " ".join(report.notes)
    assert "TorchScript" in notes
    assert "2.1" in notes
