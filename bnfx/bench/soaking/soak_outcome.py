"""What :mod:`bnfx.bench.soak` saw."""

from __future__ import annotations

import gc
import os
from collections import Counter
from dataclasses import dataclass, field

GROWTH_MIB = 64


@dataclass
class SoakOutcome:
    """What was seen in one form.

    Args:
        calls: answers, by how they came about: ``eager`` where Dynamo left the call to PyTorch, as
            it may when threads meet, ``constants`` and ``inputs`` by the form of the folded
            weights, ``unfolded`` where bnfx ran the graph as it came.
        answers: of all but the eager ones, what :meth:`~Subject.judge` says.
        writes: by kind.
        errors: what threads raised.
        memory: MiB of the process, and descriptors: its open files, after each cycle, by rounds.
    """

    form: str
    calls: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    memory: list[list[float]] = field(default_factory=list)
    descriptors: list[list[int]] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.answers["wrong"]

    @property
    def is_right(self) -> bool:
        """Whether every promise was kept."""
        return not (self.wrong or self.errors) and self.growth < GROWTH_MIB and not self.leaked

    def look(self) -> None:
        """Note memory and descriptors."""
        gc.collect()
        self.memory[-1].append(_memory_mib())
        self.descriptors[-1].append(_descriptors())

    @property
    def growth(self) -> float:
        """MiB by which memory grew in all rounds, once everything was compiled."""
        return sum(max(0.0, min(each[-3:]) - max(each[:3])) for each in self.memory)

    @property
    def leaked(self) -> int:
        """Descriptors that were opened and not closed in all rounds, likewise."""
        return sum(max(0, min(each[-3:]) - max(each[:3])) for each in self.descriptors)

    def share(self, way: str) -> float:
        """Of all calls, those that were answered that way."""
        return self.calls[way] / max(1, self.calls.total())

    def __str__(self) -> str:
        shares = ", ".join(f"{self.share(way):.1%} {way}" for way in sorted(self.calls))
        judged = ", ".join(f"{count} {kind}" for kind, count in sorted(self.answers.items()))
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.writes.items()))
        return (
            f"{self.form}: {self.wrong} wrong of {self.calls.total()} ({shares}; {judged}), "
            f"{len(self.errors)} errors {self.errors[:2]}, {self.writes.total()} writes ({kinds}), "
            f"{len(self.memory)} rounds, {self.growth:.0f} MiB grown ("
            f"{self.memory[0][0]:.0f} -> {self.memory[-1][-1]:.0f}, with what was compiled anew), "
            f"{self.leaked} descriptors leaked ({self.descriptors[0][0]} -> "
            f"{self.descriptors[-1][-1]})"
        )


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
