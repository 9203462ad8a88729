"""What sharing statistics costs: a training step, bnfx and others side by side, in one run.

Run as ``python -m bnfx.bench.sync_cost [ranks]``. Starts gloo processes of one thread each, which
train a small convolutional net; every contender takes a step in turn, many times over, so that
noise hits all alike. Prints the median milliseconds of a step, and how far the running variance is
from that of one process with the whole batch. The limit is the bare cost of the collectives: as
many of the same size, and nothing else.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.multiprocessing.spawn import spawn

import bnfx
from bnfx.bench.on_models.sync_naive import NaiveSyncBatchNorm, bare_collectives
from bnfx.bench.sync_others import others

CHANNELS, DEPTH, SIDE, BATCH, STEPS = 32, 6, 32, 4, 40


@dataclass(frozen=True)
class StepCost:
    """One contender.

    Args:
        name: what ran.
        step_ms: median of a training step, forward, backward and all.
        error: largest relative error of a running variance; ``None`` where there is none.
    """

    name: str
    step_ms: float
    error: float | None


def model() -> nn.Sequential:
    """Convolutions and BatchNorms, alike on all ranks."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for depth in range(DEPTH):
        layers += [nn.Conv2d(CHANNELS if depth else 3, CHANNELS, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers)


def batch(rank: int) -> torch.Tensor:
    """Ranks see other images."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) + rank


def measure(rank: int, world: int) -> list[StepCost]:
    """All contenders, on one rank of an initialised group; every rank must call this."""
    local, eager, swapped, naive = (model() for _ in range(4))
    bnfx.convert_sync_batchnorm(eager)
    NaiveSyncBatchNorm.convert(naive)
    compiled = torch.compile(model(), backend="bnfx", options={"sync": "off"})
    ours = torch.compile(swapped, backend="bnfx", fullgraph=True, options={"sync": "require"})
    runs: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], nn.Module | None]] = {
        "local BatchNorm, eager": (local, local),
        "local BatchNorm, compiled": (compiled, None),
        "bnfx, eager": (eager, eager),
        "bnfx, compiled": (ours, swapped),
        "naive sums of squares, eager": (naive, naive),
    }
    runs |= {f"{name}, eager": (other, other) for name, other in others(model).items()}
    x, truth = batch(rank), model()
    for _ in range(3):
        truth(torch.cat([batch(each) for each in range(world)]))
        for run, _ in runs.values():
            _step(run, x)
    errors = {name: _error(module, truth) for name, (_, module) in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in (*runs, LIMIT)}
    for _ in range(STEPS):
        for name, (run, _) in runs.items():
            times[name].append(_seconds(functools.partial(_step, run, x)))
        times[LIMIT].append(_seconds(functools.partial(bare_collectives, DEPTH, CHANNELS)))
    return [
        StepCost(name, statistics.median(some) * 1e3, errors.get(name))
        for name, some in times.items()
    ]


LIMIT = "bare collectives (the limit)"


def _error(module: nn.Module | None, truth: nn.Module) -> float | None:
    if module is None:
        return None
    pairs = [
        (own, right)
        for (name, own), (_, right) in zip(
            module.named_buffers(), truth.named_buffers(), strict=True
        )
        if name.endswith("running_var")
    ]
    return max(float(((own - right) / right).abs().max()) for own, right in pairs)


def _step(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    torch.autograd.backward(run(x).square().mean())


def _seconds(work: Callable[[], object]) -> float:
    dist.barrier()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _work(rank: int, world: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    costs = measure(rank, world)
    if rank == 0:
        _show(costs, world)
    dist.destroy_process_group()


def _show(costs: list[StepCost], world: int) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("training step")
    for heading in ("ms", "against local eager", "error of running_var"):
        table.add_column(heading, justify="right")
    for cost in costs:
        error = "" if cost.error is None else f"{cost.error:.1e}"
        ratio = f"{cost.step_ms / costs[0].step_ms:.2f}"
        table.add_row(cost.name, f"{cost.step_ms:.2f}", ratio, error)
    console = Console(highlight=False, width=100)
    console.print(table)
    console.print(
        f"{world} gloo ranks of one thread on {os.cpu_count()} cores; {DEPTH} BatchNorms of "
        f"{CHANNELS} channels, {BATCH} images of {SIDE}x{SIDE} a rank; medians of {STEPS} steps, "
        f"contenders in turn; torch {torch.__version__}.",
        soft_wrap=True,
    )


def main(world: int = 2) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, args=(world, f"{folder}/rendezvous"), nprocs=world)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
