"""What the first call of a compiled model takes, in a process of its own.

``python -m bnfx.bench.on_models.first_call MODEL CHOSEN`` compiles a model of timm with what
``torch.compile`` is given as JSON, and writes a line of JSON: a :class:`FirstCall`. What is
measured is ``torch.compile`` and the first call, without imports. CPU seconds are those of the
process and of the compilers that it starts and waits for, which other work on the machine hardly
changes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class FirstCall:
    """Seconds.

    Args:
        wall, cpu: of the whole.
        inductor: CPU, within Inductor.
        own: CPU of this thread, within bnfx's backend and outside of Inductor; 0 for other
            backends.
    """

    wall: float
    cpu: float
    inductor: float
    own: float


def first_call(model: str, chosen: Mapping[str, Any], cache: str) -> FirstCall:
    """Start a process for it.

    Args:
        model: of timm.
        chosen: what ``torch.compile`` is given.
        cache: Inductor's folder.
    """
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # workers' CPU seconds could not be told
    }
    arguments = [sys.executable, "-m", __name__, model, json.dumps(chosen)]
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return FirstCall(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    import timm
    import torch
    import torch._inductor.compile_fx as inductor

    import bnfx.backend

    name, chosen = sys.argv[1:]
    model = timm.create_model(name).eval()
    x = torch.randn(1, 3, 224, 224)
    inner, all_of_it = _Stopwatch(), _Stopwatch()
    with (
        torch.no_grad(),
        mock.patch.object(inductor, "compile_fx", inner.around(inductor.compile_fx)),
        mock.patch.object(bnfx.backend, "bnfx", all_of_it.around(bnfx.backend.bnfx)),
    ):
        model(x)
        wall, cpu = time.perf_counter(), cpu_seconds()
        torch.compile(model, **json.loads(chosen))(x)
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    own = max(all_of_it.thread - inner.thread, 0.0)
    print(json.dumps(asdict(FirstCall(wall, cpu, inner.cpu, own))))


class _Stopwatch:
    """CPU seconds within a function, which may call itself: of the process, and of its thread."""

    def __init__(self) -> None:
        self.cpu = self.thread = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            cpu, thread = cpu_seconds(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.cpu += cpu_seconds() - cpu
                    self.thread += time.thread_time() - thread

        return timed


def cpu_seconds() -> float:
    """Of this process, and of those that it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
