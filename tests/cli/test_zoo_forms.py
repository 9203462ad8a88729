"""The page of ``python -m bnfx.bench.zoo.forms``: each form of a model, compared with the model."""

from __future__ import annotations

from pathlib import Path

import torch
from support import randomise
from torch import nn

from bnfx.bench.zoo.forms import MODELS, measure_forms
from bnfx.bench.zoo.forms_page import cells


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.conv(x))))


def test_a_row() -> None:
    model = randomise(Net()).double().eval()
    row = measure_forms("net", model, torch.randn(2, 3, 4, 4).double())
    assert row.problems == []
    assert row.error < 1e-12
    assert cells(row)[:6] == ("net", "2", "1", "1", "1", "class")


def test_the_page_has_every_model() -> None:
    page = (Path(__file__).parents[2] / "docs/zoo-forms.md").read_text()
    assert [name for name in MODELS if f"| {name} |" not in page] == []
    assert " 0 with a problem" in page
