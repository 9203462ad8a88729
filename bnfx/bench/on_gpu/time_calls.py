"""Times of calls on a device that runs behind the host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]

_ROUNDS = 7
_ROUND_SECONDS = 0.03  # of each way, in each round
_WARMUPS = 4
_MAX_QUEUED = 50  # CUDA graphs and caches see no more calls at once


def settle(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def queued_and_waited_ms(
    calls: Mapping[str, Call], device: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds a call of each way, in turn, so that noise hits all alike.

    Returns:
        Where calls are queued one behind the other, as in serving and training, and waited for at
        the end; and where each is waited for.
    """
    counts, queued, waited = {}, {}, {}
    for name, call in calls.items():
        for _ in range(_WARMUPS):
            call()
        once = _seconds(call, 1, device)
        counts[name] = max(1, min(_MAX_QUEUED, int(_ROUND_SECONDS / max(once, 1e-6))))
        queued[name], waited[name] = list[float](), list[float]()
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            queued[name].append(_seconds(call, counts[name], device) / counts[name])
            waited[name].append(_seconds(call, 1, device))
    return _medians_ms(queued), _medians_ms(waited)


def _seconds(call: Call, count: int, device: str) -> float:
    settle(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    settle(device)
    return time.perf_counter() - start


def _medians_ms(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(own) * 1e3 for name, own in times.items()}
