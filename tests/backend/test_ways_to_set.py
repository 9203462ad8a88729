"""The ways in which people choose a backend, and what they set around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Capture, InPlace, randomise, relative
from torch import nn
from torch._dynamo.testing import CompileCounter

import bnfx

MODES = ("live", "frozen", "auto", "traced")
SIZES = ((2, 3, 8, 8), (3, 3, 8, 8), (1, 3, 12, 9), (5, 3, 7, 11))


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(self._block(3 if i == 0 else 4) for i in range(2))
        randomise(self, seed).eval().double()

    def _block(self, channels: int) -> nn.Module:
        return InPlace(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def image(*size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64)


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.mul_(-1.25 if tensor.dim() == 4 else 1.25)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def agree(compiled: Callable[..., Any], model: Callable[..., Any], x: torch.Tensor) -> None:
    assert relative(compiled(x), model(x)) < 1e-14


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_default_backend"), reason="this torch has no such function"
)
def test_the_default_backend() -> None:
    model, x = Net(), image(2, 3, 8, 8)
    reports: list[Any] = []
    torch.compiler.set_default_backend("bnfx")
    try:
        plain = torch.compile(model)
        chosen = torch.compile(model, options={"inner": "eager", "report": reports.append})
        for compiled in (plain, chosen):
            agree(compiled, model, x)
            change(model)
            agree(compiled, model, x)
    finally:
        torch.compiler.set_default_backend(None)
    assert reports[0].count("folded") == 2


@pytest.mark.parametrize("weights", MODES)
def test_writes_are_no_reason_to_recompile(weights: str) -> None:
    model, x, capture = Net(), image(2, 3, 8, 8), Capture()
    options = {**capture.options, "weights": weights}
    compiled = torch.compile(model, backend="bnfx", options=options)
    agree(compiled, model, x)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(4):
            change(model)
            agree(compiled, model, x)
            model.load_state_dict(Net(3).state_dict())
            agree(compiled, model, x)
            model.blocks[0][1].running_mean[0] = float("inf")  # no longer foldable
            assert torch.equal(compiled(x).isnan(), model(x).isnan())
            model.blocks[0][1].running_mean[0] = 0.0
            agree(compiled, model, x)
        for weight in model.parameters():
            weight.data = weight.data.clone()
        agree(compiled, model, x)
    assert len(capture.reports) == 1


def test_marked_sizes() -> None:
    model, capture = Net(), Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    for size in (2, 3, 7):
        x = image(size, 3, 8, 8)
        torch._dynamo.mark_dynamic(x, 0)
        agree(compiled, model, x)
        change(model)
    assert len(capture.reports) == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("weights", MODES)
def test_all_sizes_open(weights: str) -> None:
    model, capture, counter = Net(), Capture(), CompileCounter()
    plain = torch.compile(Net(), backend=counter, dynamic=True)
    for size in SIZES:
        plain(image(*size))
    torch._dynamo.reset()
    options = {**capture.options, "weights": weights}
    compiled = torch.compile(model, backend="bnfx", dynamic=True, options=options)
    for size in SIZES:
        agree(compiled, model, image(*size))
        change(model)
    assert len(capture.reports) == counter.frame_count
    assert all(report.count("folded") == 2 for report in capture.reports)


def test_inference_mode_and_back() -> None:
    model, capture, x = Net(), Capture(), image(2, 3, 8, 8)
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            agree(compiled, model, x)
        change(model)
        with mode():
            agree(compiled, model, x)


def test_a_function_of_two_models() -> None:
    first, second, capture, x = Net(), Net(1), Capture(), image(2, 3, 8, 8)

    def ensemble(x: torch.Tensor) -> torch.Tensor:
        return first(x) + second(x) * 2

    compiled = torch.compile(ensemble, backend="bnfx", options=capture.options)
    for model in (first, second, first):
        agree(compiled, ensemble, x)
        change(model)
    agree(compiled, ensemble, x)
    assert capture.reports[0].count("folded") == 4


def test_each_block_by_itself() -> None:
    """Blocks of one class share a compiled graph; each answers with its own weights."""
    model, twin, capture, x = Net(), Net(), Capture(), image(2, 3, 8, 8)
    for block in model.blocks:
        block.compile(backend="bnfx", options=capture.options)
    for _ in range(3):
        agree(model, twin, x)
        for each in (model, twin):
            change(each.blocks[1])
    assert capture.batch_norms() == 0
    assert sum(report.count("folded") for report in capture.reports) == 2


def test_compiled_in_place() -> None:
    model, twin, x = Net(), Net(), image(2, 3, 8, 8)
    model.compile(backend="bnfx", options={"inner": "eager"})
    agree(model, twin, x)
    for each in (model, twin):
        change(each)
    agree(model, twin, x)


@pytest.mark.parametrize("weights", ["live", "frozen", "auto"])
def test_ahead_of_time_compilation(weights: str, tmp_path: Path) -> None:
    model, x = Net(), image(2, 3, 8, 8)
    options = {"inner": "eager", "weights": weights}
    with torch._dynamo.config.patch(enable_aot_compile=True):  # torch 2.11 has it off
        compiled: Any = torch.compile(model, backend="bnfx", fullgraph=True, options=options)
        function = compiled.forward.aot_compile(((x,), {}))
    for _ in range(2):
        assert relative(function(model, x), model(x)) < 1e-14
        change(model)
    with pytest.raises(bnfx.BnfxError, match=r"cannot be saved.*compile_package"):
        function.save_compiled_function(str(tmp_path / "saved"))
