"""The first call of a process: cold, and when a process before it compiled the same model.

Run as ``python -m bnfx.bench.warm_start [MODEL ...]``. Each contender gets an empty cache folder,
in which fresh processes compile the model one after the other: the first cold, the others warm.
Contenders take turns. What is timed: :mod:`bnfx.bench.on_models.first_call`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bnfx.bench.compile_cost import median
from bnfx.bench.on_models.first_call import FirstCall, first_call

MODELS = ("resnet50", "mobilenetv3_large_100")
CONTENDERS: Mapping[str, Mapping[str, Any]] = {
    "Inductor": {"backend": "inductor"},
    "bnfx, live": {"backend": "bnfx", "options": {"weights": "live"}},
    "bnfx, frozen": {"backend": "bnfx", "options": {"weights": "frozen"}},
}


def measure(
    model: str, warm: int, contenders: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[FirstCall, FirstCall]]:
    """The cold call, and the median of ``warm`` warm ones, of each contender."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: os.path.join(folder, str(at)) for at, name in enumerate(contenders)}
        cold, *others = (
            {name: first_call(model, contenders[name], cache) for name, cache in caches.items()}
            for _ in range(1 + warm)
        )
    return {name: (cold[name], median([r[name] for r in others])) for name in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="of timm")
    parser.add_argument("--warm", type=int, default=3, help="warm processes of each contender")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    chosen = parser.parse_args()
    contenders = {name: CONTENDERS[name] for name in dict.fromkeys(["Inductor", *chosen.only])}
    table = Table(
        "model", "contender", "cold, s", "warm, s", "of Inductor's", "warm, CPU s", "of it"
    )
    for model in chosen.models:
        calls = measure(model, chosen.warm, contenders)
        for name, (cold, warm) in calls.items():
            plain = calls["Inductor"][1]
            table.add_row(
                model,
                name,
                *(f"{cold.wall:.1f}", f"{warm.wall:.1f}", f"{warm.wall / plain.wall:.2f}"),
                *(f"{warm.cpu:.1f}", f"{warm.cpu / plain.cpu:.2f}"),
            )
    Console(width=110).print(table)
    Console().print(f"Medians of {chosen.warm} warm processes; load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
