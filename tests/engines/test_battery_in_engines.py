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
from bnfx.bench.on_engines.exact import allowed_error


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
        eagers = relative(model(x), expected)
        call = bnfx.compile(model, options={"inner": inner})
        for _ in range(4):
            assert relative(call(x), expected) <= allowed_error(eagers)
        other = 2 * x + 1
        expected = exact(other.double())
        eagers = max(eagers, relative(model(other), expected))
        assert relative(call(other), expected) <= allowed_error(eagers)
