"""Content that is compared: each element of a small tensor counts, whatever its dtype or layout."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from bnfx.weights.changes import content
from bnfx.weights.changes.content import Content

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128),
)
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda t: t.clone(),
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.clone().transpose(1, 3),
    "with gaps": lambda t: t.repeat(2, 2, 2, 2)[::2, 1::2, :3, 1:4],
    "with an offset": lambda t: torch.cat([t, t])[2:],
    "flat": lambda t: t.flatten().clone(),
    "flat with gaps": lambda t: t.flatten().repeat(2)[1::2],
}


@pytest.fixture(params=["host", "device"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU, or the way that other devices go."""
    if request.param == "device":
        monkeypatch.setattr(content, "_is_on_host", lambda tensor: False)
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_element_counts(dtype: torch.dtype, layout: str) -> None:
    tensor = LAYOUTS[layout](torch.randint(0, 2, (2, 3, 4, 3)).to(dtype))
    others = [torch.ones(5), torch.zeros((), dtype=torch.int64), torch.ones(2, 0)]
    held = Content([*others, tensor, tensor.detach()], everything=False)
    assert held.is_same()
    for place in torch.cartesian_prod(*map(torch.arange, tensor.shape)).view(-1, tensor.dim()):
        before = tensor[tuple(place)].clone()
        tensor[tuple(place)] = bool(before == 0)
        assert not held.is_same()
        tensor[tuple(place)] = before
    assert held.is_same()


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_bits_are_compared(value: float) -> None:
    tensor = torch.zeros(7)
    tensor[3] = value
    held = Content([tensor], everything=False)
    assert held.is_same()
    tensor[3] = 0.0
    assert not held.is_same()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("everything", [False, True])
def test_large_tensors(layout: str, everything: bool) -> None:
    tensor = LAYOUTS[layout](torch.randn(8, 16, 9, 9))
    held = Content([tensor, torch.randn(100, 100)], everything)
    assert held.is_same()
    if everything:
        tensor[tuple(size - 1 for size in tensor.shape)] += 1
        assert not held.is_same()
        tensor[tuple(size - 1 for size in tensor.shape)] -= 1
    tensor.mul_(1.5)
    assert not held.is_same()


def test_inference_tensors_are_compared_whole() -> None:
    with torch.inference_mode():
        tensor = torch.zeros(10_000)
    held = Content([tensor], everything=False)
    assert held.is_same()
    with torch.inference_mode():
        tensor[4321] = 1.0
    assert not held.is_same()


def test_parameters_may_be_resized_and_swapped() -> None:
    parameter = torch.nn.Parameter(torch.ones(6))
    held = Content([parameter], everything=False)
    torch.utils.swap_tensors(parameter, torch.nn.Parameter(torch.zeros(6)))
    assert held.is_same(), "it watches the memory that it saw"
    parameter = torch.nn.Parameter(torch.ones(6))
    held = Content([parameter], everything=False)
    size = parameter.untyped_storage().nbytes()
    parameter.untyped_storage().resize_(0)
    parameter.untyped_storage().resize_(size)
