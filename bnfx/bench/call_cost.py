"""Where a call of a compiled model spends its time beside the engine.

Run as ``python -m bnfx.bench.call_cost``; ``--inner NAME`` chooses the inner compiler, ``--model
NAME`` one model. All of it is measured in one process, each piece by itself: with caches as the
last run of the same piece left them ("warm"), and after 64 MiB of other memory were written
("cold"), which is more than any model does to them between two calls.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bnfx.backend import bnfx
from bnfx.direct.compiled import compile as compile_direct
from bnfx.inner.kept_memory import keeping_memory
from bnfx.native import loader
from bnfx.passes.fx.memory.output_memory import OutputMemory
from bnfx.weights.changes.content import Content
from bnfx.weights.changes.native_check import NativeCheck
from bnfx.weights.changes.snapshot import Snapshot
from bnfx.weights.function import FoldedFunction

REPEATS = 100
_OTHER_MEMORY = np.zeros(64 << 20, dtype=np.uint8)


def small() -> tuple[nn.Module, torch.Tensor]:
    """Three layers."""
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8)


def mobilenet() -> tuple[nn.Module, torch.Tensor]:
    """A model of 267 tensors and an input so small that its body is short."""
    import timm

    model: nn.Module = timm.create_model("mobilenetv3_large_100").eval()
    return model, torch.randn(1, 3, 64, 64)


MODELS = {"three layers": small, "mobilenetv3_large_100": mobilenet}


class Recorded:
    """A compiled graph that keeps what it was last called with."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.args: tuple[Any, ...] = ()

    def __call__(self, *args: Any) -> Any:
        self.args = args
        return self.run(*args)


def measure(make: Callable[[], tuple[nn.Module, torch.Tensor]], inner: str) -> dict[str, Any]:
    """Pieces of a call, each a function without arguments."""
    torch._dynamo.reset()  # compiled code is found by the code of a function
    model, x = make()
    graphs: list[Recorded] = []

    def forward(model: nn.Module, x: torch.Tensor) -> Any:
        return model(x)

    def nothing(model: nn.Module, x: torch.Tensor) -> Any:
        return model(x)

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(Recorded(bnfx(module, inputs, options={"inner": inner})))
        return graphs[-1]

    def empty(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        outputs = module(*inputs)
        return lambda *args: outputs

    compiled = torch.compile(forward, backend=backend, fullgraph=True)
    hollow = torch.compile(nothing, backend=empty, fullgraph=True)
    for _ in range(3):
        compiled(model, x)
        hollow(model, x)
    (graph,) = graphs
    (entry,) = torch._dynamo.eval_frame._debug_get_cache_entry_list(nothing.__code__)
    guards, scope = entry.guard_manager.root, {"model": model, "x": x}
    assert guards.check(scope), "the guards must hold"
    function = graph.run
    assert isinstance(function, FoldedFunction), "nothing was folded"
    state = function._current(graph.args)
    assert state is not None
    ways, args = state.way(graph.args), graph.args
    assert ways is not None
    tensors = function._programs.watched_of(args)
    python, native = Snapshot(tensors), Snapshot(tensors)
    pieces: dict[str, Any] = {
        f"whole call ({len(args)} tensors)": lambda: compiled(model, x),
        "torch.compile: guards, prologue, wrappers": lambda: hollow(model, x),
        "  of it guards": lambda: guards.check(scope),
        "bnfx and the engine": lambda: function(*args),
        f"  of it bnfx's check, in Python ({len(tensors)} tensors)": _in_python(python, tensors),
    }
    if loader.check_type() is not None:
        assert native.holds(tensors)
        found = native._native
        assert found is not None
        addresses, versions = native._addresses, native._all_versions()
        nothing_held = Content([], everything=False)
        alone = NativeCheck.of(loader.check_type(), tensors, addresses, versions, nothing_held)
        pieces["  of it bnfx's check, native"] = lambda: native.holds(tensors)
        pieces["    of it all but content"] = alone.still_holds
    pieces["  of it the engine"] = lambda: ways.run(args)
    return pieces | _direct(model, x, inner)


def _direct(model: nn.Module, x: torch.Tensor, inner: str) -> dict[str, Any]:
    """Pieces of a call of what ``bnfx.compile`` gives; none where it serves no call straight."""
    call: Any = compile_direct(model, options={"inner": inner})
    for _ in range(3):
        call(x)
    calls = call._bnfx_calls
    found = calls.find((x,), {})
    if found is None:
        print(f"bnfx.compile serves no call straight: {calls.why_not}")
        return {}
    shortcut, scope = found
    return {
        "whole call by bnfx.compile": lambda: call(x),
        "  of it all before the graph": lambda: calls.find((x,), {}),
        "    of it what is watched in the model": shortcut.holds,
        "    of it the guards that are left": lambda: shortcut.fits(scope),
    }


def outputs() -> dict[str, Any]:
    """What it costs that outputs keep their memory, around a graph that does nothing."""
    x = torch.randn(2, 6, 8, 8)
    forms: dict[str, Callable[[torch.Tensor], Any]] = {
        "one output": lambda y: y,
        "four outputs": lambda y: (y, y.sin(), y.cos(), y.exp()),
        "an output and a view of it": lambda y: (y, y[:, 2]),
        "eight chunks of one value": lambda y: y.chunk(8, 2),
    }
    pieces: dict[str, Any] = {}
    for name, form in forms.items():
        kept: list[Any] = []

        def backend(module: torch.fx.GraphModule, inputs: Sequence[Any], kept: Any = kept) -> Any:
            memory = OutputMemory.of(module)
            values = memory.module(*inputs)
            kept.append((keeping_memory(lambda *args: values, memory), inputs))
            return module.forward

        torch._dynamo.reset()
        torch.compile(lambda x, form=form: form(x.relu()), backend=backend)(x)
        ((run, inputs),) = kept
        pieces[name] = lambda run=run, inputs=inputs: run(*inputs)
    return pieces


def _in_python(python: Snapshot, tensors: Sequence[torch.Tensor]) -> Callable[[], bool]:
    def check() -> bool:
        found, loader.check_type = loader.check_type, lambda: None
        try:
            return python.holds(tensors)
        finally:
            loader.check_type = found

    return check


def microseconds(work: Callable[[], Any], cold: bool) -> float:
    """The median of a number of runs."""
    times = []
    for _ in range(REPEATS):
        if cold:
            np.add(_OTHER_MEMORY, 1, out=_OTHER_MEMORY)
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a call spends its time.")
    parser.add_argument("--inner", default="inductor", help="the inner compiler")
    parser.add_argument("--model", choices=MODELS, action="append", help="one model; default: all")
    chosen = parser.parse_args()
    os.environ.setdefault("BNFX_NATIVE", "1")
    for name in chosen.model or MODELS:
        table = Table(title=f"{name}, inner={chosen.inner}, microseconds")
        table.add_column("")
        table.add_column("warm", justify="right")
        table.add_column("cold", justify="right")
        with torch.no_grad():
            for piece, work in measure(MODELS[name], chosen.inner).items():
                times = [microseconds(work, cold) for cold in (False, True)]
                table.add_row(piece, *(f"{each:.0f}" for each in times))
        Console(width=100).print(table)
    table = Table(title="outputs that keep their memory, microseconds")
    for column in ("", "warm", "cold"):
        table.add_column(column, justify="right" if column else "left")
    with torch.no_grad():
        for piece, work in outputs().items():
            table.add_row(piece, *(f"{microseconds(work, cold):.1f}" for cold in (False, True)))
    Console(width=100).print(table)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"Medians of {REPEATS}; torch {torch.__version__}, {torch.get_num_threads()} threads, load "
        f"{load}. Native check: {loader.state().sentence}."
    )


if __name__ == "__main__":
    main()
