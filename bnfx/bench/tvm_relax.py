"""Relax builds side by side: `python -m bnfx.bench.tvm_relax [network ...]`.

For each network of torchvision: ``tvm.compile`` as it is, upstream's FoldBatchnormToConv2D in
front, and bnfx: build time, run time, kernels that run. Each is built twice in turn, and the first
time is not counted, since TVM imports and caches much. And the time of the pass itself, the best of
five.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torchvision
import tvm
from rich.console import Console
from rich.table import Table
from tvm import relax

import bnfx.tvm
from bnfx.bench.zoo.random_norms import randomise
from bnfx.tvm.inspection import launches
from bnfx.tvm.relax import FoldBatchNorm, Runner

SIZE = 64
ROUNDS = 2
NETWORKS = ("resnet18", "mobilenet_v2", "resnet50")

Build = Callable[[Any, Any], Any]


def _default(module: Any, target: Any) -> Any:
    return tvm.compile(module, target)


def _target_pipeline(module: Any, target: Any) -> Any:
    return tvm.compile(module, target, relax_pipeline=relax.get_default_pipeline(target))


def _upstream(module: Any, target: Any) -> Any:
    folded = relax.transform.FoldBatchnormToConv2D()(module)
    return _target_pipeline(folded, target)


def _bnfx(module: Any, target: Any) -> Any:
    return bnfx.tvm.build(module, target)


BUILDS: dict[str, Build] = {
    "tvm.compile": _default,
    "its pipeline for the target": _target_pipeline,
    "FoldBatchnormToConv2D, then that": _upstream,
    "bnfx": _bnfx,
}


def _run_time(executable: Any, x: torch.Tensor) -> float:
    """Milliseconds of one run: the median of several."""
    run = Runner(executable)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times[1:])


def _pass_time(module: Any) -> tuple[float, float]:
    """Seconds that the pass takes, by the clock and of the processor: the best of five."""
    clock, processor = [], []
    for _ in range(5):
        fold: Any = FoldBatchNorm()
        start = time.perf_counter(), time.process_time()
        fold(module)
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return min(clock), min(processor)


def main(networks: tuple[str, ...]) -> None:
    """Print one table for each network."""
    target = tvm.target.Target("llvm")
    console = Console()
    for name in networks:
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None).eval()
        x = torch.randn(1, 3, SIZE, SIZE)
        randomise(model, x)
        module = bnfx.tvm.from_torch(model, x)
        with torch.no_grad():
            expected = model(x)
        table = Table(title=f"{name}, {SIZE}x{SIZE}, llvm, untuned, TVM {tvm.__version__}")
        table.add_column("build")
        for heading in ("build, s", "run, ms", "kernels", "relative error"):
            table.add_column(heading, justify="right")
        seconds: dict[str, float] = {}
        built: dict[str, Any] = {}
        for _ in range(ROUNDS):
            for which, build in BUILDS.items():
                start = time.perf_counter()
                built[which] = build(module, target)
                seconds[which] = time.perf_counter() - start
        for which, executable in built.items():
            (ours,) = Runner(executable)(x)
            error = float((ours - expected).abs().max() / expected.abs().max())
            numbers = (seconds[which], _run_time(executable, x))
            kernels = sum(launches(executable).values())
            table.add_row(which, *(f"{n:.1f}" for n in numbers), str(kernels), f"{error:.0e}")
        console.print(table)
        clock, processor = _pass_time(module)
        console.print(f"the pass itself: {clock:.2f} s ({processor:.2f} s of the processor)\n")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NETWORKS)
