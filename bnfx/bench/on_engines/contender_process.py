"""A contender's process: it is told a line, and answers with one."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Contender:
    """A process that measures (:mod:`bnfx.bench.on_engines.answers_to_turns`), and what it told.

    It is stopped between its turns, as threads of some engines spin for a tenth of a second after
    a call, and would slow whoever is next. One that fails has a note, and ``nan`` for an error;
    from then on it is asked nothing.
    """

    process: subprocess.Popen[str]
    first_s: float = math.nan
    error: float = math.nan
    note: str = ""
    medians: list[float] = field(default_factory=list)

    @staticmethod
    def started(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Contender:
        """``python -m WORDS``, once it has told of its first call."""
        contender = Contender(
            subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        )
        answer = contender._told("")
        if answer is not None:
            contender.first_s, contender.error = answer["first_s"], answer["error"]
            contender.note = answer["note"]
        return contender

    def times(self, calls: int) -> list[float]:
        """Milliseconds of so many calls; none once it has failed."""
        answer = self._asked(str(calls))
        return [] if answer is None else list(answer["ms"])

    def check(self) -> Mapping[str, Any]:
        """What it tells of its answers after all calls; nothing once it has failed."""
        answer = self._asked("check")
        if answer is None:
            return {}
        self.error = max(self.error, answer["error"])
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def ms(self) -> float:
        return statistics.median(self.medians) if self.medians else math.nan

    def _asked(self, line: str) -> Mapping[str, Any] | None:
        return None if math.isnan(self.error) else self._told(f"{line}\n")

    def _told(self, line: str) -> Mapping[str, Any] | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self._signal("SIGCONT")
            self.process.stdin.write(line)
            self.process.stdin.flush()
            told = self.process.stdout.readline()
        except OSError as error:
            told = json.dumps({"failed": str(error)})
        answer: Mapping[str, Any] = json.loads(told) if told else {"failed": "it ended"}
        self._signal("SIGSTOP")
        if "failed" not in answer:
            return answer
        self.note, self.error = answer["failed"], math.nan
        self.medians.clear()
        return None

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # not there on Windows
        if number is not None:
            self.process.send_signal(number)
