"""A step of fine-tuning with BatchNorm statistics that stay: its time, and memory at the peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from bnfx.bench.on_gpu.cells import Cell
from bnfx.bench.on_gpu.time_calls import settle

_STEPS = 8
_WARMUPS = 3


def _inductor(model: nn.Module) -> Any:
    return torch.compile(model, dynamic=False)


def _traced(model: nn.Module) -> Any:
    return torch.compile(model, backend="bnfx", dynamic=False)


STEPS: Mapping[str, Callable[[nn.Module], Any]] = {
    "eager": lambda model: model,
    "Inductor": _inductor,
    "bnfx, traced": _traced,
}


def measure_step(compile_: Callable[[nn.Module], Any], device: str, size: str) -> dict[str, Any]:
    """Milliseconds a step of SGD, and MiB at the peak; the latter on a GPU only.

    Args:
        compile_: the model -> what is called in its place.
        size: ``"full"`` for resnet50 and 32 images, ``"small"`` for a tiny model.
    """
    torch._dynamo.reset()
    name, batch = ("resnet50", 32) if size == "full" else ("tiny", 2)
    cell = Cell(name, batch, "fp32", size == "full", ())
    model, x = cell.built(device)
    model.requires_grad_(True)
    call = compile_(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        call(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(_WARMUPS):
        step()
    settle(device)
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        step()
        settle(device)
        times.append((time.perf_counter() - start) * 1e3)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    return {"model": cell.name, "ms": statistics.median(times), "peak_mib": peak}
