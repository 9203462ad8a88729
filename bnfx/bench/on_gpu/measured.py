"""Measures the cells of the plan, one after the other, until time is up.

Run by ``python -m bnfx.bench.gpu`` as a process of its own: an error of the device leaves it
unusable for what comes after, which another process then measures.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnfx.bench.on_gpu.cells import Cell, plan
from bnfx.bench.on_gpu.fine_tuning import STEPS, measure_step
from bnfx.bench.on_gpu.kept_rows import KeptRows
from bnfx.bench.on_gpu.time_calls import queued_and_waited_ms
from bnfx.bench.on_gpu.ways_to_run import WAYS, Call
from bnfx.folding.verify import relative_error

# Steps that are measured after this many cells.
_CELLS_BEFORE_STEPS = 2
_MAX_WHY = 200


class DeviceFailedError(Exception):
    """The device is of no more use to this process."""


def measure(cell: Cell, device: str, deadline: float) -> dict[str, Any]:
    """All ways of one cell that compile before the deadline (of ``time.monotonic``)."""
    torch._dynamo.reset()
    model, x = cell.built(device)
    failed: dict[str, str] = {}
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    compile_s: dict[str, float] = {}
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=64):
        expected = _first(_wide(model)(x.double()))
        for name in cell.ways:
            way = WAYS[name]
            if time.monotonic() > deadline or (way.needs_gpu and device == "cpu"):
                continue
            start = time.monotonic()
            try:
                with torch._inductor.config.patch(freezing=way.freezing):
                    call = way.make(model, x)
                    call(x)
                if way.answers:
                    errors[name] = relative_error(_first(call(x)).double(), expected)
                calls[name] = functools.partial(call, x)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_WHY]
                if _is_of_the_device(error):
                    raise DeviceFailedError(failed[name]) from error
            compile_s[name] = round(time.monotonic() - start, 1)
        ms, waited_ms = queued_and_waited_ms(calls, device)
    return {
        "ms": ms,
        "waited_ms": waited_ms,
        "errors": errors,
        "failed": failed,
        "compile_s": compile_s,
    }


def _wide(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def _first(output: Any) -> torch.Tensor:
    """The tensor of an answer; deeplab's is in a dict."""
    while isinstance(output, dict):
        output = next(iter(output.values()))
    assert isinstance(output, torch.Tensor)
    return output


def _is_of_the_device(error: Exception) -> bool:
    """Whether the device is of no more use to this process."""
    accelerator: Any = getattr(torch, "AcceleratorError", ())
    return isinstance(error, accelerator) or "CUDA error" in str(error)


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(prog="python -m bnfx.bench.on_gpu.measured")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    chosen = parser.parse_args()
    deadline = time.monotonic() + chosen.seconds
    kept = KeptRows(chosen.folder)
    cells = plan(chosen.size)
    for at, cell in enumerate(cells):
        if at == min(_CELLS_BEFORE_STEPS, len(cells) - 1):
            _measure_steps(kept, chosen.device, chosen.size, deadline)
        _measure_cell(kept, cell, chosen.device, deadline)


def _measure_cell(kept: KeptRows, cell: Cell, device: str, deadline: float) -> None:
    key = f"{cell.name}: {len(cell.ways)} ways"
    if key in kept.names("begun") or time.monotonic() > deadline:
        return
    kept.add("begun", key, {})
    try:
        values = measure(cell, device, deadline)
    except Exception as error:
        nothing: dict[str, Any] = {"ms": {}, "waited_ms": {}, "errors": {}, "compile_s": {}}
        values = {**nothing, "failed": {"eager": f"{type(error).__name__}: {error}"[:_MAX_WHY]}}
        kept.add("speed", cell.name, values)
        if isinstance(error, DeviceFailedError) or _is_of_the_device(error):
            raise
    kept.add("speed", cell.name, values)
    print(f"{cell.name}: {values['ms']}", flush=True)


def _measure_steps(kept: KeptRows, device: str, size: str, deadline: float) -> None:
    for name, compile_ in STEPS.items():
        if f"step {name}" in kept.names("begun") or time.monotonic() > deadline:
            continue
        kept.add("begun", f"step {name}", {})
        try:
            values = measure_step(compile_, device, size)
        except Exception as error:
            values = {"why": f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_WHY]}
        kept.add("training", name, values)
        print(f"step, {name}: {values}", flush=True)


if __name__ == "__main__":
    main()
