"""OpenVINO's conversion."""

from __future__ import annotations

import openvino as ov
import torch
from common import case
from torch import nn


class ScaledInput(nn.Module):
    """The scale varies over the kernel's positions, so zero padding must not see it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, 4, 3, 3) + 0.5)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x * self.scale)


torch.manual_seed(0)
model, x = ScaledInput().eval(), torch.randn(1, 4, 3, 3)


def openvino():
    converted = ov.convert_model(model, example_input=x, input=[tuple(x.shape)])
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(converted, "CPU", hints)([x.numpy()])[0]


with torch.no_grad():
    case(
        "OpenVINO",
        "openvino",
        "x * p, p of shape (1, C, 3, 3), then a 3x3 convolution with padding",
        model(x),
        openvino,
        lambda: torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})(x),
    )
