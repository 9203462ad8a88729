"""Threads that call one compiled model while another one writes to it, for as long as you like.

Run as ``python -m bnfx.bench.soak --seconds 1800`` (``make soak SECONDS=1800``): 16 threads read,
one writes by seven kinds of write, to two instances that share their graphs, with inputs of four
sizes; in turn for ``live``, ``frozen`` and ``auto``. Every answer must be that of weights that were
current during its call; memory and file descriptors must not grow. Prints counts, and exits with
status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from bnfx.backend import bnfx
from bnfx.bench.soak_writes import WRITES, Net

FORMS = ("live", "frozen", "auto")
VALUES = (0.9, -1.1, 1.3, -0.7, 0.5)
SIZES = ((1, 8), (2, 8), (2, 10), (3, 9))
BOUND = 1e-4  # of a relative error; two versions differ by more than a hundred times that
GROWTH_MIB = 64


@dataclass
class Outcome:
    """What was seen in one form.

    Args:
        calls, folded, wrong: answers, those of folded graphs, those of these that no current
            version gives.
        writes: by kind.
        errors: what threads raised.
        memory: MiB of the process, and descriptors: its open files, from the end of the first fifth
            to the end.
    """

    form: str
    calls: int = 0
    folded: int = 0
    wrong: int = 0
    writes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether every promise was kept."""
        return not (self.wrong or self.errors) and self.growth < GROWTH_MIB and not self.leaked

    @property
    def growth(self) -> float:
        """MiB by which memory grew."""
        return max(self.memory[-3:]) - max(self.memory[:3]) if self.memory else 0.0

    @property
    def leaked(self) -> int:
        """Descriptors that were opened and not closed."""
        return max(0, self.descriptors[-1] - max(self.descriptors[:3])) if self.descriptors else 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.writes.items()))
        ends = f"{self.memory[0]:.0f} -> {self.memory[-1]:.0f}" if self.memory else "not measured"
        return (
            f"{self.form}: {self.wrong} of {self.calls} answers wrong ({self.folded} by folded "
            f"graphs), {len(self.errors)} errors {self.errors[:2]}, "
            f"{sum(self.writes.values())} writes ({kinds}), memory {ends} MiB, "
            f"{self.leaked} descriptors leaked"
        )


def soak(
    form: str,
    seconds: float,
    threads: int = 16,
    sizes: Sequence[tuple[int, int]] = SIZES,
    inner: str = "inductor",
) -> Outcome:
    """One form for so many seconds, not counting what is compiled first."""
    torch._dynamo.reset()  # graphs of another form count against Dynamo's limit
    models = [Net(0), Net(1)]
    values = [torch.full((4,), value) for value in VALUES]
    inputs = [torch.randn(batch, 4, size, size) for batch, size in sizes]
    outcome = Outcome(form)

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(x)
        return answer

    options: dict[str, Any] = {"weights": form, "inner": inner}
    folded, here = itertools.count(), threading.local()

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        function = bnfx(graph, example_inputs, options=options)

        def call(*args: Any) -> Any:
            next(folded)
            here.folded = True
            return function(*args)

        return call

    compiled = torch.compile(forward, backend=backend, dynamic=False)
    expected: list[list[list[torch.Tensor]]] = []
    with torch.no_grad():
        for model in models:
            expected.append([])
            for value in values:
                model.norm.weight.copy_(value)
                expected[-1].append([model(x) for x in inputs])
                for x in inputs:
                    compiled(model, x)
            model.norm.weight.copy_(values[0])
    # Dynamo's guards fail now and then when threads meet; such a call runs eagerly, and no graph is
    # compiled anew for it.
    torch.compiler.set_stance("eager_on_recompile")
    before = next(folded)
    begun, done = [0, 0], [0, 0]  # of each model: writes that began, and that ended
    stop, lock = threading.Event(), threading.Lock()

    def is_of(answer: torch.Tensor, versions: range, which: int, at: int) -> bool:
        for version in versions:
            wanted = expected[which][version % len(values)][at]
            if float((answer - wanted).abs().max()) <= BOUND * float(wanted.abs().max()):
                return True
        return False

    def read(number: int) -> None:
        calls = wrong = 0
        try:
            with torch.no_grad():
                while not stop.is_set():
                    which, at = (number + calls) % 2, (number + calls // 2) % len(inputs)
                    low, here.folded = done[which], False
                    answer = compiled(models[which], inputs[at])
                    high = begun[which]
                    calls += 1
                    # Where Dynamo left the call to eager PyTorch, which reads the vector once for
                    # each layer, a write in its middle makes a mixture.
                    wrong += here.folded and not is_of(answer, range(low, high + 1), which, at)
        except BaseException as error:
            outcome.errors.append(repr(error)[:200])
        with lock:
            outcome.calls += calls
            outcome.wrong += wrong

    readers = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    start, turn, next_look = time.monotonic(), 0, seconds / 5
    kinds = list(WRITES)
    with torch.no_grad():
        while (now := time.monotonic() - start) < seconds:
            turn += 1
            which, kind = turn % 2, kinds[turn // 2 % len(kinds)]
            begun[which] += 1
            WRITES[kind](models[which], values[begun[which] % len(values)])
            done[which] += 1
            outcome.writes[kind] += 1
            # Mostly rare enough for a call to see one version; at times in a burst.
            time.sleep(0.0005 if turn % 50 < 10 else 0.02)
            if now > next_look:
                next_look += seconds / 20
                gc.collect()
                outcome.memory.append(_memory_mib())
                outcome.descriptors.append(_descriptors())
    stop.set()
    for reader in readers:
        reader.join(120)
        if reader.is_alive():
            outcome.errors.append("a reader hangs")
    with torch.no_grad():
        for which, model in enumerate(models):
            for at, x in enumerate(inputs):
                latest = range(done[which], done[which] + 1)
                outcome.wrong += not is_of(compiled(model, x), latest, which, at)
    outcome.folded = next(folded) - before
    torch.compiler.set_stance("default")
    return outcome


def _memory_mib() -> float:
    """Resident memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def _descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all forms together")
    parser.add_argument("--threads", type=int, default=16)
    given = parser.parse_args()
    outcomes = []
    for form in FORMS:
        outcomes.append(soak(form, given.seconds / len(FORMS), given.threads))
        print(outcomes[-1], flush=True)
    sys.exit(not all(outcome.is_right for outcome in outcomes))


if __name__ == "__main__":
    main()
