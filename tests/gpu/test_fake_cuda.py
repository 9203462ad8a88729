"""Without a GPU: the backend on fake CUDA tensors, through Inductor's passes up to its code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gpu.nets import Net
from torch import fx, nn
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode

import bnfx
from bnfx.inner.cudnn_fusion import with_fusion


def on_cuda(model: nn.Module) -> nn.Module:
    """With fake tensors in place of its own."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"check": "deferred", "weight_layout": "channels_last"}], ids=str
)
def test_folds_and_passes_through_inductor(options: dict[str, Any], dtype: torch.dtype) -> None:
    seen: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, inputs: Sequence[Any], **rest: Any) -> Any:
        from torch._inductor import config

        config.post_grad_custom_pre_pass(module.graph)
        seen.append(module)
        return module

    def inner(module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        patches = with_fusion({}, always=True)
        return compile_fx(module, list(inputs), inner_compile=keep, config_patches=patches)

    reports: list[bnfx.Report] = []
    options = {**options, "inner": inner, "report": reports.append}
    model = Net().to(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        x = torch.empty(4, 3, 12, 12, device="cuda", dtype=dtype)
        out = torch.compile(on_cuda(model), backend="bnfx", options=options)(x)
    assert (out.device.type, out.shape, out.dtype) == ("cuda", (4, 8), dtype)
    assert reports[-1].count("folded") == 5
    (module,) = seen
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    names = [node.target.__name__ for node in calls]
    assert "bnfx" in str(calls[names.index("conv_relu.default")].target)
    assert not any("batch_norm" in name for name in names)
    assert all(node.meta["val"].device.type == "cuda" for node in calls if "val" in node.meta)
