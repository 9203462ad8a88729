"""The backend's answers on a device are those of the untouched model in float64."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from battery.conv import Case
from battery.every import CASES
from gpu.nets import Net, error, exact, picture, without_tf32
from support import Capture, relative

import bnfx

pytestmark = pytest.mark.gpu

FORMS = ("live", "frozen", "auto")


@pytest.mark.parametrize("weights", FORMS)
def test_each_form_under_inductor(device: str, weights: str) -> None:
    model, x = Net().to(device), picture(device)
    reports: list[bnfx.Report] = []
    options = {"weights": weights, "report": reports.append}
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options=options)
        assert error(model, compiled, x) < 1e-5
    assert reports[-1].count("kept") == 0
    ((form, _),) = reports[-1].weights
    assert form == {"auto": "frozen" if device == "cuda" else "live"}.get(weights, weights)


def test_double_precision(device: str) -> None:
    model, x = Net().double().to(device), picture(device).double()
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx")
        assert error(model, compiled, x) < 1e-12


def test_traced_gradients(device: str) -> None:
    model, twin, x = Net().double().to(device), Net().double().to(device), picture(device).double()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    compiled(x).square().mean().backward()
    twin(x).square().mean().backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        # A bias before a BatchNorm in evaluation has a gradient as well; none is None.
        assert ours.grad is not None, name
        assert relative(ours.grad, theirs.grad) < 1e-10, name


# On CPU, where this only tries the test itself, a few of them.
BATTERY = CASES if os.environ.get("BNFX_DEVICE", "cuda") == "cuda" else CASES[::24]
SECONDS = 40.0  # for each of the two; device time is short


def wrong_in(cases: Sequence[Case], device: str, **options: Any) -> list[str]:
    """Of the cases for which there is time, those with another answer; in one test, since hundreds
    of small graphs take less time than to tell of each."""
    end, wrong, checked = time.monotonic() + SECONDS, [], 0
    for case in cases:
        if time.monotonic() > end:
            break
        torch._dynamo.reset()
        case = case.fresh()
        model, x = case.model.to(device), torch.randn(case.shape, dtype=torch.float64).to(device)
        compiled = torch.compile(model, backend="bnfx", options=options)
        with torch.no_grad():
            if not relative(compiled(x), exact(model, x)) < 1e-10:
                wrong.append(case.name)
        checked += 1
    print(f"{checked} of {len(cases)} graphs")
    assert checked >= 5
    return wrong


def test_the_battery_folds_exactly(device: str) -> None:
    capture = Capture()
    assert wrong_in(BATTERY, device, **capture.options) == []
    assert sum(report.count("folded") for report in capture.reports) > 5


def test_the_battery_under_inductor(device: str) -> None:
    """A sample, through generated code."""
    assert wrong_in(BATTERY[:: 30 if device == "cuda" else 3], device) == []
