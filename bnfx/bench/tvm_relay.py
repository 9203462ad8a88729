"""Relay builds with and without bnfx, side by side: `python -m bnfx.bench.tvm_relay`.

For each network of ``tvm.relay.testing``: build time, run time, and the elementwise affine ops that
are left. Builds alternate, since TVM caches what it compiled in a process; the first of each is not
counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # TVM downloads schedules otherwise

import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.relay import testing

import bnfx.tvm
from bnfx.tvm.relay import FoldBatchNorm

TARGET = os.environ.get("BNFX_TARGET", "llvm -mtriple=x86_64-linux-gnu -mcpu=core-avx2")
ROUNDS = 3
NETWORKS: dict[str, Callable[[], Any]] = {
    "dcgan": lambda: testing.dcgan.get_workload(1),
    "resnet18": lambda: testing.resnet.get_workload(num_layers=18, image_shape=(3, 64, 64)),
    "mobilenet": lambda: testing.mobilenet.get_workload(image_shape=(3, 64, 64)),
}


def _signed(params: dict[str, Any]) -> dict[str, Any]:
    """BatchNorms that are no identities."""
    random = np.random.default_rng(0)
    found = dict(params)
    for name, old in params.items():
        if name.endswith(("gamma", "beta", "mean", "var")):
            found[name] = tvm.nd.array(random.uniform(0.5, 1.5, old.shape).astype(old.dtype))
    return found


def _run_time(library: Any) -> float:
    """Milliseconds of one run: the median of several."""
    executor = graph_executor.GraphModule(library["default"](tvm.cpu()))
    timer = executor.module.time_evaluator("run", tvm.cpu(), number=3, repeat=5)
    return 1e3 * float(median(timer().results))


def _fold_time(module: Any, params: dict[str, Any]) -> float:
    """Seconds that the pass itself takes."""
    function = relay.build_module.bind_params_by_name(module["main"], params)
    bound = tvm.IRModule.from_expr(function)
    start = time.perf_counter()
    fold: Any = FoldBatchNorm()
    fold(bound)
    return time.perf_counter() - start


def main() -> None:
    table = Table(title=f"Relay, {TARGET.split()[0]}, TVM {tvm.__version__}")
    for heading in ("network", "pass, s", "build, s: TVM", "bnfx", "ratio", "run, ms: TVM", "bnfx"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    table.add_column("ratio", justify="right")
    for name, workload in NETWORKS.items():
        module, params = workload()
        params = _signed(params)
        builders = {"TVM": relay.build, "bnfx": bnfx.tvm.build}
        seconds: dict[str, list[float]] = {which: [] for which in builders}
        libraries: dict[str, Any] = {}
        for _ in range(ROUNDS):
            for which, build in builders.items():
                with tvm.transform.PassContext(opt_level=3):
                    start = time.perf_counter()
                    libraries[which] = build(module, TARGET, params=params)
                    seconds[which].append(time.perf_counter() - start)
        build = {which: median(times[1:]) for which, times in seconds.items()}
        run = {which: _run_time(library) for which, library in libraries.items()}
        table.add_row(
            name,
            f"{_fold_time(module, params):.2f}",
            *(f"{build[which]:.1f}" for which in builders),
            f"{build['bnfx'] / build['TVM']:.2f}",
            *(f"{run[which]:.2f}" for which in builders),
            f"{run['bnfx'] / run['TVM']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
