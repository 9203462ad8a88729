"""Random networks with an engine behind: right to the engine's rounding, and no crash.

``BNFX_FUZZ=150`` sets the number of networks for each engine.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from fuzz.drawn import examples
from fuzz.network import Network
from fuzz.programs import Shape, networks
from hypothesis import assume, given
from support import relative

import bnfx
from bnfx.bench.on_engines.exact import ROUNDING, allowed_error
from bnfx.errors import InnerWarning


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["openvino", "onnxruntime"])
def test_answers_are_eagers(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(inner)
    monkeypatch.setenv("BNFX_NATIVE", "1")
    compared = 0

    @examples(4)
    @given(networks())
    def check(case: tuple[Network, Shape]) -> None:
        nonlocal compared
        exact, shape = case[0].module().double(), case[1]
        torch._dynamo.reset()
        model = copy.deepcopy(exact).float()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", bnfx.RewriteWarning)
            warnings.simplefilter("ignore", InnerWarning)  # what an engine does not take
            run = bnfx.compile(model, options={"inner": inner})
            for _ in range(4):  # the engine's answers are those from the second on
                x = torch.randn(*shape)
                _agree(run(x.clone()), model(x.clone()), exact(x.double()))
        compared += 1

    check()
    assert compared


def _agree(
    ours: tuple[torch.Tensor, ...],
    eagers: tuple[torch.Tensor, ...],
    expected: tuple[torch.Tensor, ...],
) -> None:
    assert len(ours) == len(eagers) == len(expected)
    for each, eager, exact in zip(ours, eagers, expected, strict=True):
        assert each.shape == exact.shape
        assert each.dtype == eager.dtype
        assume(bool(exact.isfinite().all()))
        if float(exact.std()) == 0:  # x - x, say: it proves little, and is nothing to divide by
            assert float((each - exact).abs().max()) <= ROUNDING
            continue
        assert relative(each, exact) <= allowed_error(relative(eager, exact))
