"""Options that are to save time on a GPU: right answers, and no call that waits."""

from __future__ import annotations

import pytest
import torch
from gpu.nets import Net, error, exact, picture, without_tf32
from support import relative

import bnfx
from bnfx.inner import cudnn_trial

pytestmark = pytest.mark.gpu

CONVOLUTION = torch.nn.functional.conv2d


@pytest.mark.parametrize("check", ["deferred", "marks"])
def test_a_call_does_not_wait(cuda: str, check: str) -> None:
    """Were it to, torch would raise."""
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options={"check": check})
        for _ in range(3):
            compiled(x)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                out = compiled(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert relative(out, exact(model, x)) < 1e-2


def test_the_default_check_waits(cuda: str) -> None:
    """The test above can fail."""
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx")
        compiled(x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with pytest.raises(RuntimeError, match="synchronizing"):
                compiled(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_deferred_notices_a_call_later(device: str) -> None:
    """What leaves a mark is noticed at once, what leaves none at a later call."""
    model, x = Net().to(device), picture(device)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options={"check": "deferred"})
        compiled(x)
        model.norm.weight.mul_(-1.2)
        assert error(model, compiled, x) < 1e-4
        model.norm.bias.data.add_(1)
        for _ in range(3):
            compiled(x)
            if device == "cuda":
                torch.cuda.synchronize()
        assert error(model, compiled, x) < 1e-4


def test_marks_and_refresh(device: str) -> None:
    model, x = Net().to(device), picture(device)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options={"check": "marks"})
        compiled(x)
        model.norm.weight.mul_(-1.2)
        assert error(model, compiled, x) < 1e-4
        model.norm.bias.data.add_(1)
        bnfx.refresh(compiled)
        assert error(model, compiled, x) < 1e-4


@pytest.mark.parametrize("fusion", ["always", "trial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cudnn_fusion(device: str, fusion: str, dtype: torch.dtype) -> None:
    layout = torch.channels_last
    model = Net().to(device, dtype).to(memory_format=layout)
    x = picture(device).to(dtype).to(memory_format=layout)
    bound = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options={"cudnn_fusion": fusion})
        assert error(model, compiled, x) < bound
        model.norm.weight.mul_(-1.2)
        for _ in range(7):
            assert error(model, compiled, x) < bound


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 4])
def test_cudnn_ops_are_their_parts(device: str, padding: int, groups: int) -> None:
    from bnfx.inner import cudnn_ops

    cudnn_ops.register()
    x = torch.randn(2, 8, 9, 9).to(device).to(memory_format=torch.channels_last)
    w, b = torch.randn(12, 8 // groups, 3, 3).to(device), torch.randn(12).to(device)
    geometry = ([1, 1], [padding] * 2, [1, 1], groups)
    with torch.no_grad(), without_tf32():
        parts = torch.nn.functional.conv2d(x.double(), w.double(), b.double(), *geometry)
        z = torch.randn(parts.shape).to(device).to(memory_format=torch.channels_last)
        assert relative(torch.ops.bnfx.conv_relu(x, w, b, *geometry), parts.relu()) < 1e-5
        with_z = torch.ops.bnfx.conv_add_relu(x, w, z, b, *geometry)
        assert relative(with_z, (parts + z).relu()) < 1e-5
        no_bias = torch.nn.functional.conv2d(x.double(), w.double(), None, *geometry).relu()
        assert relative(torch.ops.bnfx.conv_relu(x, w, None, *geometry), no_bias) < 1e-5


def test_the_trial_measures(cuda: str) -> None:
    model = Net().to(cuda).half().to(memory_format=torch.channels_last)
    x = picture(cuda).half().to(memory_format=torch.channels_last)
    cudnn_trial._known.clear()
    with torch.no_grad(), torch._inductor.config.patch(fx_graph_cache=False):
        torch.compile(model, backend="bnfx", options={"cudnn_fusion": "trial"})(x)
    assert len(cudnn_trial._known) == 1, "one convolution is followed by a ReLU alone"


def test_weights_with_channels_last(device: str) -> None:
    model = Net().to(device).to(memory_format=torch.channels_last)
    x = picture(device).to(memory_format=torch.channels_last)
    options = {"weights": "live", "weight_layout": "channels_last"}
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options=options)
        for _ in range(2):
            assert error(model, compiled, x) < 1e-4
            model.norm.weight.mul_(-1.2)
