"""What a process that measures does: one JSON object a line, for each line that it is told."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bnfx.errors import InnerWarning


@dataclass(frozen=True)
class Measured:
    """A way to run a model, ready to be made.

    Args:
        make: gives what runs it; timed, with the first call.
        x: what that is called with.
        error: of an answer.
        finish: waits for the device.
        more: what else to tell at the end.
    """

    make: Callable[[], Callable[[Any], Any]]
    x: Any
    error: Callable[[Any], float]
    finish: Callable[[], object] = lambda: None
    more: Callable[[], dict[str, Any]] = dict


def answer_turns(prepare: Callable[[], Measured], warm_ups: int) -> None:
    """Tell of the first call; then, for each line of standard input, of so many calls, or of the
    error after all of them (``check``).
    """
    with _telling() as tell, torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InnerWarning)
        way = prepare()
        x = way.x
        start = time.perf_counter()
        run = way.make()
        run(x)
        way.finish()
        first = time.perf_counter() - start
        for _ in range(warm_ups):
            answer = run(x)
        told = [str(each.message) for each in caught if each.category is InnerWarning]
        tell(first_s=first, error=way.error(answer), note="; ".join(told))
        for line in sys.stdin:
            if line.strip() == "check":
                tell(error=way.error(run(x)), **way.more())
            else:
                tell(ms=[_ms(way, run) for _ in range(int(line))])


def _ms(way: Measured, run: Callable[[Any], Any]) -> float:
    start = time.perf_counter()
    run(way.x)
    way.finish()
    return (time.perf_counter() - start) * 1e3


@contextmanager
def _telling() -> Iterator[Callable[..., None]]:
    """Standard output is for answers; what libraries print there goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**answer: object) -> None:
        lines.write(json.dumps(answer) + "\n")

    try:
        yield tell
    except Exception as error:
        cause = getattr(error, "inner_exception", error)  # Dynamo wraps what a backend raises
        tell(failed=f"{type(cause).__name__}: {cause}".strip().splitlines()[0])
        raise
