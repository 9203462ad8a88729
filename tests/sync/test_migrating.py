"""State dicts of other projects' layouts load, and give the answers that they gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import bnfx

WEIGHT, BIAS = torch.tensor([0.5, -1.2, 0.7, 1.0]), torch.tensor([0.1, 0.2, -0.3, 0.0])
MEAN, VAR = torch.tensor([0.1, 0.2, 0.3, -1.0]), torch.tensor([1.0, 2.0, 0.5, 0.1])
FOUR = {"weight": WEIGHT, "bias": BIAS, "running_mean": MEAN, "running_var": VAR}
COUNTED = {**FOUR, "num_batches_tracked": torch.tensor(7)}

LAYOUTS: dict[str, dict[str, Any]] = {
    "torch, apex, detectron2, mmcv": COUNTED,
    "Synchronized-BatchNorm-PyTorch": COUNTED,
    "PyTorch-Encoding, inplace_abn, pytorch-syncbn: no counter": FOUR,
    "under DataParallel": {f"module.{name}": value for name, value in COUNTED.items()},
}


def expected(x: torch.Tensor, weight: torch.Tensor = WEIGHT) -> torch.Tensor:
    mean, var, gamma, beta = (t.view(1, -1, 1, 1).double() for t in (MEAN, VAR, weight, BIAS))
    return (x.double() - mean) / (var + 1e-5).sqrt() * gamma + beta


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_dict_loads(layout: str) -> None:
    state = {name.removeprefix("module."): value for name, value in LAYOUTS[layout].items()}
    x = torch.randn(2, 4, 3, 3)
    for module in (nn.BatchNorm2d(4), bnfx.SyncBatchNorm(4)):
        module.load_state_dict(state)
        torch.testing.assert_close(module.eval()(x).double(), expected(x), rtol=1e-5, atol=1e-5)


def test_what_inplace_abn_scales_by() -> None:
    state = {**FOUR, "weight": WEIGHT.abs() + 1e-5}
    norm, x = bnfx.SyncBatchNorm(4), torch.randn(2, 4, 3, 3)
    norm.load_state_dict(state)
    right = expected(x, WEIGHT.abs() + 1e-5)
    torch.testing.assert_close(norm.eval()(x).double(), right, rtol=1e-5, atol=1e-5)


def test_what_is_saved_loads_into_batch_norm() -> None:
    """And back: our layout is torch's."""
    ours = bnfx.SyncBatchNorm(4)
    assert list(ours.state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    nn.BatchNorm2d(4).load_state_dict(ours.state_dict())
