"""Sums of many numbers, which TVM adds up one after the other: what is rounded off stays small."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bnfx.errors import InnerWarning

pytest.importorskip("tvm")


def _sums(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    rows = x.flatten(1)
    sums = (x.mean((2, 3)), x.sum(1, keepdim=True).sum((0, 2)), F.group_norm(x, 1, eps=1e-2))
    return (*sums, rows.softmax(1), rows @ rows.t(), torch.addmm(x[0, 0, :2, :2], rows, rows.t()))


@pytest.mark.slow
@torch.no_grad()
def test_long_sums_are_those_of_torch() -> None:
    """Equal numbers round alike, so that errors add up: in turn, these means are 2e-4 off."""
    torch._dynamo.reset()
    placements: list[Any] = []
    options = {"check": False, "report": placements.append}
    run = torch.compile(_sums, backend="bnfx", options={"inner": "tvm", "inner_options": options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        for number in (0.1, 0.7, -2.117):
            x = torch.full((2, 1, 160, 160), number)
            x[0, 0, 3, 4] = 0.5  # its largest logit
            for at, (ours, theirs) in enumerate(zip(run(x), _sums(x.double()), strict=True)):
                error = float((ours.double() - theirs).abs().max())
                assert error <= 4e-5 * float(theirs.abs().max().clamp_min(1e-2)), (at, number)
    where = placements[0].torch
    assert {"_softmax.default", "mm.default", "addmm.default"} <= set(where), placements[0]
    assert not {"mean.dim", "sum.dim_IntList", "native_group_norm.default"} & set(where)
