"""One rank: ``python -m sync.rank MODULE WORLD RANK FILE [CASE ...]``; see :mod:`sync.launch`.

With ``- - env`` for world, rank and file, it takes them from torchrun.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.distributed as dist


def _cases(module: ModuleType, world: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """The module's cases; those that its ``WORLDS`` names, where it has so many ranks."""
    chosen = getattr(module, "WORLDS", {}).get(world)
    for name, value in vars(module).items():
        if name.startswith("case_") and (chosen is None or name in chosen):
            yield f"{module.__name__.partition('cases_')[2]}.{name}", value


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    name, world, rank, file, *names = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.filterwarnings("error", category=UserWarning, module=r"bnfx\Z")
    timeout = datetime.timedelta(seconds=float(os.environ.get("SYNC_TIMEOUT", "120")))
    if file == "env":
        dist.init_process_group("gloo", timeout=timeout)
    else:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{file}",
            rank=int(rank),
            world_size=int(world),
            timeout=timeout,
        )
    modules = [importlib.import_module(f"sync.{each}") for each in name.split("+")]
    known = {case: f for module in modules for case, f in _cases(module, dist.get_world_size())}
    without = {name.removeprefix("not ") for name in names if name.startswith("not ")}
    wanted = {name for name in names if not name.startswith("not ")}
    there = {case: case.partition(".")[2] for case in known}
    assert {*there.values()} >= without | wanted, f"{names} are not all among {[*known]}"
    chosen = [case for case, name in there.items() if name not in without]
    chosen = [case for case in chosen if not wanted or there[case] in wanted]
    assert chosen, "a run without cases proves nothing"
    for case in chosen:
        start = _cpu_seconds()
        torch.manual_seed(0)
        known[case]()
        torch._dynamo.reset()
        print(f"{case}: {_cpu_seconds() - start:.2f} s of CPU time", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
