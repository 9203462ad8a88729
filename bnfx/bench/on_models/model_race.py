"""Compares ways to run a model: each in its process, in turns, right beside fast."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnfx.bench.on_engines.contender_process import Contender
from bnfx.bench.on_models.bench_ways import LIMIT
from bnfx.bench.on_models.bench_worker import Job

MOST_ERROR = 1e-3  # relative, of a float32 answer against float64
CALLS = 5  # of each in a round
_LOUD = 0.1  # a share of its median by which the calls of the steadiest way may vary


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Args:
        way: its name.
        ms: the median of all calls; ``nan`` if it failed.
        low, high: the quartiles.
        over_eager: how many times as fast as eager.
        error: of its answer, against the model in float64, relative.
        first_s: seconds of its first call, compiling included.
        memory: bytes that its process took at most, beyond the loaded model.
        note: why it failed, or what else is to be known.
    """

    way: str
    ms: float
    low: float
    high: float
    over_eager: float
    error: float
    first_s: float
    memory: int
    note: str

    @property
    def is_wrong(self) -> bool:
        """Whether it answered, and not rightly."""
        return not math.isnan(self.ms) and not self.error <= MOST_ERROR


@dataclass(frozen=True)
class Race:
    """A comparison.

    Args:
        source: the model.
        shapes: of its inputs.
        device: it ran on.
        threads: that each process used.
        rows: one for each way.
        load: of the machine, before and after.
        left_out: a sentence on each way that was not tried.
    """

    source: str
    shapes: tuple[str, ...]
    device: str
    threads: int
    rows: tuple[Row, ...]
    load: tuple[float, float]
    left_out: tuple[str, ...]

    @property
    def noise(self) -> float:
        """How far apart the quartiles of the steadiest way are, relative to its median."""
        return min(((row.high - row.low) / row.ms for row in self.rows if row.ms > 0), default=0.0)

    def noise_in_words(self) -> str:
        """How much of a difference means something."""
        said = f"Noise: the quartiles of the steadiest way are {self.noise:.0%} apart"
        load = f"load {self.load[0]:.1f} before and {self.load[1]:.1f} after"
        if self.noise > _LOUD:
            return f"{said} ({load}), too much to tell small differences: use a quiet machine."
        return f"{said} ({load})."

    def to_json(self) -> str:
        """The race as JSON; what failed has ``null`` in place of numbers."""
        rows = [{**asdict(row), "wrong": row.is_wrong} for row in self.rows]
        data = {**asdict(self), "rows": rows, "noise": self.noise}
        return json.dumps(all_finite(data), indent=2)


def all_finite(value: Any) -> Any:
    """``value`` for JSON, which has no NaN and no infinity: ``null`` stands for them."""
    if isinstance(value, dict):
        return {key: all_finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def race(
    jobs: Sequence[Job],
    rounds: int,
    left_out: Sequence[str],
    tell: Callable[[str], None],
    calls: int = CALLS,
) -> Race:
    """Run all jobs in turns.

    They take turns, so that noise hits all alike; none runs while another does.

    Args:
        jobs: one for each way, of one model.
        rounds: of ``calls`` calls each.
        left_out: a sentence on each way that was not tried.
        tell: is told what is done next, ``len(jobs) + 1`` times.
        calls: of each way in a round.
    """
    import torch

    before = os.getloadavg()[0]
    started: dict[str, Contender] = {}
    times: dict[str, list[float]] = {job.way: [] for job in jobs}
    try:
        for job in jobs:  # one after the other: the first call is timed as well
            tell(f"compiling: {job.way}" if job.way != "eager" else "starting: eager")
            words = ("bnfx.bench.on_models.bench_worker", job.to_json())
            started[job.way] = Contender.started(words)
        tell("timing")
        for _ in range(rounds):
            for way, contender in started.items():
                times[way] += contender.times(calls)
        memory = {way: int(each.check().get("memory", 0)) for way, each in started.items()}
    finally:
        for contender in started.values():
            contender.end()
    load = (before, os.getloadavg()[0])
    eager = statistics.median(times.get("eager") or [math.nan])
    rows = tuple(_row(w, c, times[w], memory[w], eager) for w, c in started.items())
    threads = torch.get_num_threads()
    first = jobs[0]
    return Race(
        first.subject.name,
        first.subject.shapes,
        first.device,
        threads,
        rows,
        load,
        tuple(left_out),
    )


def _row(way: str, contender: Contender, ms: list[float], memory: int, eager: float) -> Row:
    if math.isnan(contender.error) or not ms:
        nan = math.nan
        return Row(way, nan, nan, nan, nan, nan, contender.first_s, memory, contender.note)
    low, middle, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else ms * 3
    note = contender.note
    if way == LIMIT:
        note = "the model without BatchNorms: what a fold can reach at best"
    error = contender.error
    return Row(way, middle, low, high, eager / middle, error, contender.first_s, memory, note)
