"""The first call of a process: cold, and when a process before it compiled the same model.

Run as ``python -m bnfx.bench.warm_start [MODEL ...]``. Each contender gets an empty cache folder,
in which fresh processes compile the model one after the other: the first cold, the others warm.
What is timed is ``torch.compile`` and the first call, without imports. Contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from rich.console import Console
from rich.table import Table

MODELS = ("resnet50", "mobilenetv3_large_100")
CONTENDERS: dict[str, dict[str, Any]] = {
    "Inductor": {"backend": "inductor"},
    "bnfx, live": {"backend": "bnfx", "options": {"weights": "live"}},
    "bnfx, frozen": {"backend": "bnfx", "options": {"weights": "frozen"}},
}


def child(model: str, chosen: dict[str, Any]) -> None:
    """Compile one model in this process; prints the seconds."""
    import timm
    import torch

    import bnfx.backend  # noqa: F401  (imports are not timed)

    net = timm.create_model(model).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        net(x)
        began = time.perf_counter()
        torch.compile(net, **chosen)(x)
        print(json.dumps(time.perf_counter() - began))


def _seconds(model: str, contender: str, cache: str) -> float:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    arguments = [sys.executable, "-m", __spec__.name, "--child", contender, model]
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(model: str, warm: int) -> dict[str, tuple[float, float]]:
    """Seconds of the cold call, and the median of ``warm`` warm ones, of each contender."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: os.path.join(folder, str(at)) for at, name in enumerate(CONTENDERS)}
        cold = {name: _seconds(model, name, cache) for name, cache in caches.items()}
        rounds = [
            {name: _seconds(model, name, cache) for name, cache in caches.items()}
            for _ in range(warm)
        ]
    return {name: (cold[name], statistics.median(r[name] for r in rounds)) for name in CONTENDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="of timm")
    parser.add_argument("--warm", type=int, default=3, help="warm processes of each contender")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        child(chosen.models[0], CONTENDERS[chosen.child])
        return
    table = Table("model", "contender", "cold, s", "warm, s", "warm, of Inductor's")
    for model in chosen.models:
        times = measure(model, chosen.warm)
        for name, (cold, warm) in times.items():
            ratio = warm / times["Inductor"][1]
            table.add_row(model, name, f"{cold:.1f}", f"{warm:.1f}", f"{ratio:.2f}")
    Console().print(table)
    Console().print(f"Medians of {chosen.warm} warm processes; load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
