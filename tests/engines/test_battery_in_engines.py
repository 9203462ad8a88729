"""Each case of the battery with an engine behind: right to the engine's rounding, and no crash.

By ``bnfx.compile``, so that calls that go straight are among those that are looked at.
"""

from __future__ import annotations

import copy

import pytest
import torch
from battery.conv import Case
from battery.every import CASES
from support import relative, sampled

import bnfx

# Of an answer in float32, against float64: times the error of PyTorch's own.
ROUNDING, NOISE = 2e-5, 8.0


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings("ignore::bnfx.errors.InnerWarning")  # what an engine does not take
@pytest.mark.parametrize("inner", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("case", sampled(CASES, every=40))
def test_battery(case: Case, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(inner)
    monkeypatch.setenv("BNFX_NATIVE", "1")
    torch._dynamo.reset()
    exact = case.fresh().model
    x = torch.randn(case.shape, dtype=torch.float64)
    with torch.no_grad():
        expected = exact(x)
        model, x = copy.deepcopy(exact).float(), x.float()
        allowed = max(ROUNDING, NOISE * relative(model(x), expected))
        call = bnfx.compile(model, options={"inner": inner})
        for _ in range(4):
            assert relative(call(x), expected) <= allowed
        other = 2 * x + 1
        expected = exact(other.double())
        assert relative(call(other), expected) <= max(
            allowed, NOISE * relative(model(other), expected)
        )
