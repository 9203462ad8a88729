"""Engines for inference on a CPU beside bnfx: how fast each answers, and how right.

Run as ``python -m bnfx.bench.engines [model ...] [--batch N ...] [--engine NAME ...]``. Each
contender has a process of its own. They take turns, round after round, so that noise hits all
alike, and none shares threads with another. Printed are medians in milliseconds a call, the largest
error against the model in float64, the seconds of the first call in a new process (compiling
included; with ``--cold``, Inductor's caches are empty), and the ratios that bnfx is to be judged
by. ``twin`` is the model without BatchNorms.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bnfx.bench.on_engines.bench_models import MODELS
from bnfx.bench.on_engines.contender_process import Contender
from bnfx.bench.on_engines.contenders import CONTENDERS, TWIN, TWINS

ROUNDS, CALLS = 20, 5
# Rounds at least, where seconds are limited; milliseconds of a turn above which it is of one call.
FEWEST, SLOW = 3, 1000.0
_RIVALS = ("onnxruntime", "openvino")


def compare(
    name: str,
    batch: int,
    engines: Sequence[str],
    rounds: int,
    calls: int,
    cold: bool = False,
    seconds: float = math.inf,
) -> dict[str, Contender]:
    """All contenders on one model; one that fails has a note, and no times.

    Args:
        seconds: after which no more rounds begin, if there were a few.
    """
    contenders = dict[str, Contender]()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for engine in engines:  # one after the other: the first call is timed as well
                caches = Path(folder, engine) if cold else None
                contenders[engine] = _start(engine, name, batch, caches)
            until = time.monotonic() + seconds
            for at in range(rounds):
                slowest = max((each.ms for each in contenders.values() if each.medians), default=0)
                if at >= FEWEST and time.monotonic() > until:
                    break
                for contender in contenders.values():
                    if times := contender.times(calls if slowest * calls < SLOW else 1):
                        contender.medians.append(statistics.median(times))
            for contender in contenders.values():
                contender.check()
    finally:
        for contender in contenders.values():
            contender.end()
    return contenders


def _start(engine: str, name: str, batch: int, caches: Path | None) -> Contender:
    given = {} if caches is None else {"TORCHINDUCTOR_CACHE_DIR": str(caches)}
    words = ("bnfx.bench.on_engines.turns", engine, name, str(batch))
    return Contender.started(words, {"BNFX_NATIVE": "1", **given})


def ratios(rows: Mapping[tuple[str, int], Mapping[str, Contender]]) -> Iterator[str]:
    """bnfx against the better of its rivals, and against the same without BatchNorms."""
    for engine in (each for each in CONTENDERS if each.startswith("bnfx")):
        against_rivals, against_twin = list[float](), list[float]()
        for row in rows.values():
            ours = row[engine].ms if engine in row else math.nan
            rivals = [row[each].ms for each in _RIVALS if each in row]
            best = min((ms for ms in rivals if not math.isnan(ms)), default=math.nan)
            twin = f"{TWIN}{engine}"
            against_rivals.append(ours / best)
            against_twin.append(ours / (row[twin].ms if twin in row else math.nan))
        for found, what in (
            (against_rivals, "the better of ONNX Runtime and OpenVINO"),
            (against_twin, "its twin without BatchNorms"),
        ):
            known = [each for each in found if not math.isnan(each)]
            if known:
                mean = statistics.geometric_mean(known)
                yield (
                    f"{engine} / {what}: geometric mean {mean:.2f}, worst {max(known):.2f}, "
                    f"of {len(known)}"
                )


def _table(
    title: str, rows: Mapping[tuple[str, int], Mapping[str, Contender]], key: str, form: str
) -> Table:
    engines = list(dict.fromkeys(engine for row in rows.values() for engine in row))
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model, batch")
    for engine in engines:
        table.add_column(engine.replace("-", "-\n", 1), justify="right")
    for (name, batch), row in rows.items():
        values = [getattr(row[engine], key) for engine in engines]
        cells = ["-" if math.isnan(value) else format(value, form) for value in values]
        table.add_row(f"{name}, {batch}", *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bnfx.bench.engines")
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], metavar="model")
    parser.add_argument("--batch", nargs="+", type=int, default=(1, 8))
    engines = [*CONTENDERS, *TWINS]
    parser.add_argument("--engine", nargs="+", choices=engines, default=engines)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS, help="of each in a round")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="of rounds, for each model and batch"
    )
    parser.add_argument("--cold", action="store_true", help="empty caches for each contender")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=140)
    before, rows = os.getloadavg(), dict[tuple[str, int], Mapping[str, Contender]]()
    for name in chosen.models or MODELS:
        for batch in chosen.batch:
            row = compare(
                name,
                batch,
                chosen.engine,
                chosen.rounds,
                chosen.calls,
                chosen.cold,
                chosen.seconds,
            )
            rows[name, batch] = row
            times = ", ".join(f"{engine} {each.ms:.2f}" for engine, each in row.items())
            console.print(f"{name}, {batch}: {times} ms", soft_wrap=True)  # hours may follow
            for engine, contender in row.items():
                if contender.note:
                    console.print(f"{name}, {batch}, {engine}: {contender.note}", markup=False)
    console.print(_table("milliseconds a call", rows, "ms", ".1f"))
    console.print(_table("error against float64, relative", rows, "error", ".0e"))
    console.print(_table("seconds of the first call", rows, "first_s", ".1f"))
    for line in ratios(rows):
        console.print(line, soft_wrap=True)
    load = ", ".join(f"{each:.1f}" for each in (before[0], os.getloadavg()[0]))
    console.print(
        f"Medians of up to {chosen.rounds} rounds of {chosen.calls} calls, float32; "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}; load before and after: "
        f"{load}, of which the benchmark itself makes up to {torch.get_num_threads()}.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
