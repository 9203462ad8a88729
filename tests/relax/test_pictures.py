"""What a page shows of a Relax function: its ops before and after, and its BatchNorms' numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support import DRAWS, randomise
from torch import nn

from bnfx.passes.relax.rewrite import rewrite_module
from bnfx.tvm import from_torch
from bnfx.tvm.relax import FoldBatchNorm


class Net(nn.Module):
    """One BatchNorm to fold, one to leave, and ops with tuples and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.folds = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-2)
        self.stays = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(self.folds(self.conv(x)))
        return torch.cat([self.stays(y), y], 1)[:, 1:5].mean((2, 3))


def test_ops_before_and_after_are_linked_and_numbers_are_the_models() -> None:
    torch.manual_seed(0)
    model = randomise(Net().eval())
    module = from_torch(model, torch.randn(1, 3, 6, 6))
    (report,) = rewrite_module(module, detailed=True).reports
    details = report.details
    assert details is not None
    kinds = [op.kind for op in details.before]
    assert kinds == [
        "input", "conv2d", "batch_norm", "sin", "batch_norm", "concat", "strided_slice", "mean",
        "tuple", "output",
    ]  # fmt: skip
    before = {op.identity: op for op in details.before}
    assert all(source in before for op in details.before for source in op.inputs)
    after = {op.name: op for op in details.after}
    folded = {v.site.name: at for at, v in enumerate(report.verdicts)}
    assert after["conv2d"].sites == (folded["folds"],)
    assert after["conv2d"].identity == next(
        o.identity for o in details.before if o.kind == "conv2d"
    )
    assert len(after["conv2d"].largest) == 4
    assert after["stays"].kind == "multiply-add"
    assert "folds" not in after
    assert after["conv2d"].flops == 2 * 27 * 4 * 16 + 4 * 16
    numbers = details.norms[folded["folds"]]
    norm = model.folds
    assert norm.running_var is not None
    assert numbers.eps == pytest.approx(1e-2)
    assert numbers.variance == pytest.approx(norm.running_var.tolist())
    assert numbers.gamma == pytest.approx(norm.weight.tolist())
    assert numbers.scale == pytest.approx(
        [g / math.sqrt(v + 1e-2) for g, v in zip(numbers.gamma, numbers.variance, strict=True)]
    )


@DRAWS
def test_a_page_is_drawn_where_the_report_goes_to_one(tmp_path: Path) -> None:
    module = from_torch(randomise(Net().eval()), torch.randn(1, 3, 6, 6))
    fold = FoldBatchNorm(report=tmp_path / "net.html")
    fold(module)
    page = (tmp_path / "net.html").read_text()
    assert "strided_slice" in page
    assert 'id="health"' in page
    quiet = FoldBatchNorm()
    quiet(module)
    assert quiet.report is not None
    assert quiet.report.graphs[0].details is None
