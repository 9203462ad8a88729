"""Half precision, TF32, channels last, autocast."""

from __future__ import annotations

import pytest
import torch
from gpu.nets import Net, error, exact, picture, without_tf32
from support import relative

pytestmark = pytest.mark.gpu

BOUNDS = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_half_precision(device: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Not much further from the exact answer than eager is."""
    model = Net().to(device, dtype).to(memory_format=layout)
    x = picture(device).to(dtype).to(memory_format=layout)
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx")
        for _ in range(2):
            assert compiled(x).dtype == dtype
            eager = relative(model(x), exact(model, x))
            assert error(model, compiled, x) < max(3 * eager, BOUNDS[dtype] / 4) < BOUNDS[dtype]
            model.norm.weight.mul_(-1.2)


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32(cuda: str, allowed: bool) -> None:
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad(), without_tf32(allowed):
        compiled = torch.compile(model, backend="bnfx")
        assert error(model, compiled, x) < (2e-2 if allowed else 1e-5)


@pytest.mark.parametrize("weights", ["live", "frozen"])
def test_autocast(device: str, weights: str) -> None:
    model, x = Net().to(device), picture(device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
        for _ in range(2):
            out = compiled(x)
            assert out.dtype == model(x).dtype
            with torch.autocast(device, enabled=False):
                assert relative(out, exact(model, x)) < 1e-1
            model.norm.weight.mul_(-1.2)
