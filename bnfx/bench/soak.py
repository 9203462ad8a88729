"""Threads that call compiled models while another one writes to them, for as long as you like.

Run as ``python -m bnfx.bench.soak --seconds 1800`` (``make soak SECONDS=1800``): 16 threads read,
one writes by eight kinds of write, to two instances each of two nets, which share their graphs,
with inputs of four sizes; in turn for ``live``, ``frozen`` and ``auto``, or for one ``--form``.
Writes come in bursts, with quiet between, so that weights are frozen again; and now and then
everything is compiled anew. Every answer of a folded graph is held against the promise
(:mod:`bnfx.bench.soaking.soak_answers`); memory and file descriptors must not grow. Prints counts,
and exits with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import fx, nn

from bnfx.backend import bnfx
from bnfx.bench.soaking.soak_answers import Subject
from bnfx.bench.soaking.soak_outcome import SoakOutcome
from bnfx.bench.soaking.soak_writes import SIGNED, WRITES, Matrix, Vector
from bnfx.weights.folded import FoldedState

FORMS = ("live", "frozen", "auto")
SIZES = ((1, 8), (2, 8), (2, 10), (3, 9))
# One round: so many calls of each model with each size, without a write, then so many writes to
# each. Weights are frozen before the first two writes; what follows leaves them live.
FREEZING, LIVE = ((200, 1), (200, 1)), (20, 24)
# Seconds that a reader may take for its last call, which may compile, before it counts as hanging.
PATIENCE = 120


def soak(
    form: str,
    seconds: float,
    threads: int = 16,
    sizes: Sequence[tuple[int, int]] = SIZES,
    inner: str = "inductor",
    cycles: int = 20,
) -> SoakOutcome:
    """One form, in rounds, for so many seconds; the last round is whole in any case.

    Args:
        cycles: of calls and writes in one round, besides those in which weights are frozen.
    """
    outcome, start = SoakOutcome(form), time.monotonic()
    while not outcome.memory or time.monotonic() - start < seconds:
        outcome.memory.append([])
        outcome.descriptors.append([])
        with _ways_noted() as here:
            _Round(outcome, here, threads, sizes, inner).run(cycles)
    return outcome


@contextlib.contextmanager
def _ways_noted() -> Iterator[threading.local]:
    """Each thread's latest call: what answered it."""
    here, original = threading.local(), FoldedState.way

    def way(state: FoldedState, args: Sequence[Any]) -> Any:
        found = original(state, args)
        folded = "constants" if state.frozen and found is state.ways[0] else "inputs"
        here.way = folded if state.program.slots else "unfolded"
        return found

    with mock.patch.object(FoldedState, "way", way):
        yield here


class _Round:
    """Everything compiled once, then read and written to."""

    def __init__(
        self,
        outcome: SoakOutcome,
        here: threading.local,
        threads: int,
        sizes: Sequence[tuple[int, int]],
        inner: str,
    ) -> None:
        self.outcome, self.here, self.threads = outcome, here, threads
        seed = 2 * len(outcome.memory)
        vectors = [torch.rand(batch, 4, size, size) - 0.5 for batch, size in sizes]
        self.subjects = [
            *(Subject(Vector(seed + each), vectors) for each in range(2)),
            *(Subject(Matrix(seed + each), [torch.rand(2, 64, 4, 4) + 0.1]) for each in range(2)),
        ]
        self.cases = [
            (subject, at) for subject in self.subjects for at in range(len(subject.inputs))
        ]
        self.kinds = {subject: itertools.cycle(_kinds(subject)) for subject in self.subjects}
        torch._dynamo.reset()  # graphs of another round count against Dynamo's limit
        self.compiled = torch.compile(
            _forward(), backend=_backend(outcome.form, inner), dynamic=False
        )
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.served = [0] * threads  # calls, of each thread
        self.pause = 0.0  # of each reader after each call
        self.recent: deque[str] = deque(maxlen=100)  # what answered

    def run(self, cycles: int) -> None:
        with torch.no_grad():
            for subject, at in self.cases:
                self.compiled(subject.model, subject.inputs[at])
            # Dynamo's guards fail now and then when threads meet; such a call runs eagerly, and no
            # graph is compiled anew for it.
            torch.compiler.set_stance("eager_on_recompile")
            try:
                readers = [
                    threading.Thread(target=self._read, args=(n,)) for n in range(self.threads)
                ]
                for reader in readers:
                    reader.start()
                for quiet, burst in FREEZING:
                    self._wait(quiet, self.outcome.form == "frozen")
                    self._write(burst)
                for _ in range(cycles):
                    self._wait(LIVE[0], False)
                    self._write(LIVE[1])
                    self.outcome.look()
                self.stop.set()
                for reader in readers:
                    reader.join(PATIENCE)
                    if reader.is_alive():
                        self.outcome.errors.append(f"a reader hangs: {_where(reader)}")
                for case in self.cases:  # what was written last is what is answered from now on
                    self.outcome.answers[self._call(*case)[0]] += 1
            finally:
                torch.compiler.set_stance("default")

    def _wait(self, calls: int, freezes: bool) -> None:
        """Until weights are frozen, if they are to be, and so many calls were answered; not for
        ever, on a busy machine.
        """
        self.pause = 0.1 if freezes else 0.0  # a compiler needs some time for itself
        self._wait_for(lambda: not freezes or self._mostly_constants())
        self.pause, goal = 0.0, sum(self.served) + calls * len(self.cases)
        self._wait_for(lambda: sum(self.served) >= goal)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and not self.outcome.errors and not condition():
            time.sleep(0.01)

    def _mostly_constants(self) -> bool:
        return self.recent.count("constants") > 80

    def _write(self, writes: int) -> None:
        for turn in range(writes * len(self.subjects)):
            subject = self.subjects[turn % len(self.subjects)]
            kind = next(self.kinds[subject])
            if kind == "by element":
                subject.write_by_element()
            else:
                subject.write(WRITES[kind])
            self.outcome.writes[kind] += 1
            # Mostly rare enough for a call to see one version; at times in a burst.
            time.sleep(0.0005 if turn % 50 < 10 else 0.02)

    def _call(self, subject: Subject, at: int) -> tuple[str, str]:
        done, self.here.way = subject.done(), "eager"
        answer = self.compiled(subject.model, subject.inputs[at])
        way, begun = self.here.way, subject.begun()
        # Eager PyTorch reads a vector once for each layer: no promise of bnfx's.
        return ("eager" if way == "eager" else subject.judge(answer, at, done, begun)), way

    def _read(self, number: int) -> None:
        calls, answers = Counter[str](), Counter[str]()
        try:
            with torch.no_grad():
                while not self.stop.is_set():
                    case = self.cases[(number + self.served[number]) % len(self.cases)]
                    answer, way = self._call(*case)
                    self.served[number] += 1
                    time.sleep(self.pause)
                    self.recent.append(way)
                    calls[way] += 1
                    answers[answer] += answer != "eager"
        except BaseException as error:
            self.outcome.errors.append(repr(error)[:200])
        with self.lock:
            self.outcome.calls += calls
            self.outcome.answers += answers


def _kinds(subject: Subject) -> list[str]:
    """The kinds of write that are promised to be seen, whatever runs meanwhile."""
    return [*WRITES, "by element"] if isinstance(subject.model, Vector) else [*SIGNED]


def _forward() -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(x)
        return answer

    return forward


def _backend(form: str, inner: str) -> Callable[..., Any]:
    options: dict[str, Any] = {"weights": form, "inner": inner}

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        return bnfx(graph, example_inputs, options=options)

    return backend


def _where(thread: threading.Thread) -> str:
    """The lines that a thread is at."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "gone" if frame is None else "".join(traceback.format_stack(frame))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all forms together")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--form", choices=FORMS, help="one form alone")
    given = parser.parse_args()
    forms = [given.form] if given.form else FORMS
    outcomes = []
    for form in forms:
        outcomes.append(soak(form, given.seconds / len(forms), given.threads))
        print(outcomes[-1], flush=True)
    sys.exit(not all(outcome.is_right for outcome in outcomes))


if __name__ == "__main__":
    main()
