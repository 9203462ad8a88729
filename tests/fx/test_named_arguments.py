"""Arguments that are passed by name, by NumPy's names too: read as such, or left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import Capture, fail_on_warnings, randomise, relative
from torch import nn

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "neg": lambda m, y: torch.neg(input=y),
    "negative": lambda m, y: torch.negative(input=y),
    "add": lambda m, y: torch.add(input=y, other=m.p),
    "add2": lambda m, y: torch.add(y, other=m.p, alpha=2),
    "mulx1": lambda m, y: torch.mul(y, other=2.0),
    "sub": lambda m, y: torch.sub(input=y, other=m.p, alpha=3),
    "rsub": lambda m, y: torch.rsub(y, 1.0, alpha=2),
    "rsubk": lambda m, y: torch.rsub(input=y, other=1.0),
    "cat axis": lambda m, y: torch.cat(tensors=[y[:, :2], y[:, 2:]], axis=1),
    "cat": lambda m, y: torch.cat([y[:, :2], y[:, 2:]], axis=1),
    "concat": lambda m, y: torch.concat([y[:, :2], y[:, 2:]], axis=-3),
    "chunk": lambda m, y: torch.cat(torch.chunk(input=y, chunks=2, dim=1)[::-1], 1),
    "chunk ax": lambda m, y: torch.cat(y.chunk(chunks=2, dim=1)[::-1], 1),
    "split": lambda m, y: torch.cat(torch.split(y, split_size_or_sections=2, dim=1)[::-1], 1),
    "split2": lambda m, y: torch.cat(y.split(split_size=2, dim=1)[::-1], 1),
    "tsplit": lambda m, y: torch.cat(torch.tensor_split(y, sections=2, dim=1)[::-1], 1),
    "tsplit2": lambda m, y: torch.cat(torch.tensor_split(y, indices=(3,), dim=1)[::-1], 1),
    "unbind": lambda m, y: torch.stack(y.unbind(axis=1)[::-1], 1),
    "unbind0": lambda m, y: torch.stack(torch.unbind(y, dim=1)[::-1], dim=1),
    "narrow": lambda m, y: torch.cat(
        [torch.narrow(input=y, dim=1, start=2, length=2), y.narrow(1, 0, 2)], 1
    ),
    "select": lambda m, y: torch.stack([y.select(dim=1, index=i) for i in (3, 2, 1, 0)], 1),
    "permute": lambda m, y: torch.permute(input=y, dims=(0, 1, 3, 2)),
    "permute2": lambda m, y: y.permute(dims=(0, 1, 3, 2)),
    "transpose": lambda m, y: torch.transpose(y, dim0=2, dim1=3),
    "transp ax": lambda m, y: torch.swapaxes(y, axis0=2, axis1=3),
    "swapdims": lambda m, y: torch.swapdims(input=y, dim0=3, dim1=2),
    "moveaxis": lambda m, y: torch.moveaxis(y, source=2, destination=3),
    "mean": lambda m, y: torch.mean(y, axis=(2, 3), keepdims=True),
    "mean2": lambda m, y: y.mean(axis=-1, keepdim=True),
    "amax": lambda m, y: torch.amax(y, axis=(2,), keepdims=True),
    "max": lambda m, y: torch.max(y, axis=2, keepdims=True)[0],
    "maxpool": lambda m, y: F.max_pool2d(input=y, kernel_size=2),
    "avg": lambda m, y: F.avg_pool2d(
        input=y, kernel_size=2, stride=1, count_include_pad=False, padding=1
    ),
    "pad": lambda m, y: F.pad(input=y, pad=(0, 0, 0, 0)),
    "flatten": lambda m, y: torch.flatten(input=y, start_dim=2).unsqueeze(dim=-1),
    "interp": lambda m, y: F.interpolate(input=y, scale_factor=2, mode="nearest"),
    "relu": lambda m, y: F.relu(input=y),
    "leaky": lambda m, y: F.leaky_relu(input=y, negative_slope=0.1),
    "clone": lambda m, y: torch.clone(input=y),
    "div": lambda m, y: torch.div(y, 2.0, rounding_mode=None),
    "pixel": lambda m, y: F.pixel_unshuffle(
        input=F.pixel_shuffle(input=y, upscale_factor=2), downscale_factor=2
    ),
    "stack": lambda m, y: torch.stack([y, y * 2], axis=1).mean(axis=1),
    "hstack": lambda m, y: torch.hstack((y[:, :2], y[:, 2:])),
    "true_divide": lambda m, y: torch.true_divide(input=y, other=2.0),
    "multiply": lambda m, y: torch.multiply(y, m.p),
    "conv": lambda m, y: F.conv2d(input=y, weight=m.other.weight, bias=m.other.bias),
    "convs": lambda m, y: torch.conv2d(
        y, m.other.weight, stride=1, bias=m.other.bias, padding="valid"
    ),
    "lin": lambda m, y: F.linear(
        input=y.permute(0, 2, 3, 1), weight=m.other.weight[:, :, 0, 0], bias=m.other.bias
    ).permute(0, 3, 1, 2),
}


class Net(nn.Module):
    """A call between a convolution and a BatchNorm."""

    def __init__(self, call: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.p = nn.Parameter(torch.randn(4, 1, 1))
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.call(self, self.conv(x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_calls_by_name(name: str) -> None:
    """All axes are equally long, so that a wrong one is not seen by its size."""
    torch._dynamo.reset()
    net = randomise(Net(CALLS[name])).eval().double()
    x = torch.randn(4, 4, 4, 4, dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        fail_on_warnings()
        actual = torch.compile(net, backend="bnfx", options=Capture().options)(x)
        assert relative(actual, net(x)) < 1e-12
