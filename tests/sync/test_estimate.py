"""``bnfx.estimate_statistics`` in one process; with ranks, it is in cases_outside.py."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bnfx


class Halves(nn.Module):
    """The second layer runs for large inputs alone, the third never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.BatchNorm1d(3).double() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) if x.mean() > 1 else self.first(x)


def test_layers_that_do_not_always_run() -> None:
    """Only what a layer saw counts: nothing is averaged twice, or left over from before."""
    model = Halves()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.copy_(7 * torch.ones_like(buffer))
    small, large = torch.randn(4, 3).double(), 5 + torch.randn(6, 3).double()
    bnfx.estimate_statistics(model, [large, small], progress=False)
    for norm, batches in ((model.first, (large, small)), (model.second, (large,))):
        inputs = (
            batches if norm is model.first else [F.batch_norm(large, None, None, training=True)]
        )
        total = sum(map(len, inputs))
        var = sum(len(each) * each.var(0) for each in inputs) / total
        torch.testing.assert_close(norm.running_var, var)
    assert (model.third.running_mean == 7).all()
    assert (model.third.running_var == 7).all()


def test_a_single_value_has_no_variance() -> None:
    """In one process, torch itself raises; and all stays as it was."""
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.BatchNorm1d(3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        bnfx.estimate_statistics(
            model, [torch.randn(4, 3, 5), torch.randn(1, 3, 5)], progress=False
        )
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_layer_that_does_not_run_keeps_its_counter() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Half()
    model.idle.num_batches_tracked.fill_(7)
    before = {name: value.clone() for name, value in model.idle.state_dict().items()}
    bnfx.estimate_statistics(model, [torch.randn(4, 3, 5, 5)] * 2, progress=False)
    assert model.used.num_batches_tracked == 2
    for name, value in model.idle.state_dict().items():
        assert torch.equal(value, before[name])
