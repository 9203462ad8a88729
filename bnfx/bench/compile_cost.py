"""What compiling takes with bnfx, beside plain Inductor.

Run as ``python -m bnfx.bench.compile_cost [--models NAME ...] [--rounds N]``. Each compilation has
a process of its own with an empty cache; contenders take turns, round after round. Prints medians:
seconds of ``torch.compile`` and the first call, CPU seconds of the same, their ratios, and what
bnfx itself takes of it, as a share of the CPU seconds that plain Inductor takes for the model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bnfx.bench.on_models.first_call import FirstCall, first_call

MODELS = (
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet121",
    "mobilenetv3_large_100",
    "regnetx_004",
)
CONTENDERS: Mapping[str, Mapping[str, Any]] = {
    "Inductor": {"backend": "inductor"},
    "bnfx": {"backend": "bnfx"},
}


def measure(model: str, rounds: int) -> dict[str, FirstCall]:
    """Medians of ``rounds`` compilations of each contender, in turns."""
    calls: dict[str, list[FirstCall]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, chosen in CONTENDERS.items():
            with tempfile.TemporaryDirectory() as cache:
                calls[name].append(first_call(model, chosen, cache))
    return {name: median(of) for name, of in calls.items()}


def median(calls: Sequence[FirstCall]) -> FirstCall:
    """The median of each number."""
    numbers = ("wall", "cpu", "inductor", "own")
    return FirstCall(*(statistics.median(getattr(c, name) for c in calls) for name in numbers))


def row(model: str, plain: FirstCall, ours: FirstCall) -> list[str]:
    """One model's row of the table."""
    return [
        model,
        *(f"{seconds:.1f}" for seconds in (plain.wall, ours.wall)),
        f"{ours.wall / plain.wall:.2f}",
        *(f"{seconds:.1f}" for seconds in (plain.cpu, ours.cpu)),
        f"{ours.cpu / plain.cpu:.2f}",
        f"{ours.own:.2f}",
        f"{ours.own / plain.inductor:.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of timm")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    headings = ("model", "Inductor\ns", "bnfx\ns", "ratio")
    cpu = ("Inductor\nCPU s", "bnfx\nCPU s", "ratio", "bnfx itself\nCPU s", "of Inductor's")
    table = Table(*headings, *cpu)
    for model in chosen.models:
        calls = measure(model, chosen.rounds)
        of_model = row(model, calls["Inductor"], calls["bnfx"])
        print(*of_model, flush=True)  # an hour may follow
        table.add_row(*of_model)
    Console(width=110).print(table)
    Console().print(f"Medians of {chosen.rounds} rounds; load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
