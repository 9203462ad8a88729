"""Rounding is measured only for those who get a report; what is folded does not depend on it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from support import randomise
from torch import fx, nn

import bnfx
from bnfx.backend import rewrite_captured
from bnfx.passes.fx.rewrite import rewrite

TINY = 1e-42  # subnormal in float32


def net(number: float, dtype: torch.dtype, everywhere: bool) -> nn.Module:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)), 0).eval().to(dtype)
    weight = model[0].weight.data
    (weight if everywhere else weight[0, 0, 0, :1]).copy_(torch.tensor(number))  # may overflow
    return model


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(
    "number", [1.0, -3.0, 0.0, TINY, 1e-5, 6e4, 3e38, float("inf"), float("nan")]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_same_is_folded(dtype: torch.dtype, number: float, everywhere: bool) -> None:
    module = fx.symbolic_trace(net(number, dtype, everywhere))
    tensors = dict(module.state_dict())
    told, untold = (
        rewrite(module, tensors, form="attributes", measured=measured) for measured in (True, False)
    )
    for one, other in zip(told.report.verdicts, untold.report.verdicts, strict=True):
        assert (one.outcome, one.target, one.refusals) == (
            other.outcome,
            other.target,
            other.refusals,
        )
        assert other.error is None
        assert (one.error is not None) == (one.outcome is not bnfx.Outcome.KEPT)
    assert [slot.name for slot in told.slots] == [slot.name for slot in untold.slots]
    for ours, theirs in zip(told.evaluate() or [], untold.evaluate() or [], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("who", ["nobody", "a callable", "the log"])
def test_rounding_is_measured_for_those_who_get_the_report(
    who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def spied(*args: Any, measured: bool, **kwargs: Any) -> Any:
        asked.append(measured)
        return rewrite_captured(*args, measured=measured, **kwargs)

    monkeypatch.setattr("bnfx.backend.rewrite_captured", spied)
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "handlers", [])
    reports: list[bnfx.Report] = []
    options = {"inner": "eager", "report": reports.append if who == "a callable" else None}
    caplog.set_level(logging.DEBUG if who == "the log" else logging.INFO, logger="bnfx")
    with torch.no_grad():
        model = net(1.0, torch.float32, False)
        torch.compile(model, backend="bnfx", options=options)(torch.ones(1, 3, 4, 4))
    assert asked == [who != "nobody"]
    for report in reports:
        (verdict,) = report.verdicts
        assert verdict.error is not None
        assert 0 < verdict.error <= 2.0**-24
