"""Threads call one compiled model while another one writes: no mix of old and new weights.

And a child that is forked while another thread refreshes answers, and answers right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

CALLERS = 3
SECONDS = 2.0


class Shared(nn.Module):
    """Many convolutions, whose folded weights all come from one small vector, ``norm.weight``: it
    is written in one piece, so the only mixes there can be are of folded weights.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(12))
        self.norm = nn.BatchNorm2d(4)
        randomise(self).eval().requires_grad_(False)
        for conv in self.convs:
            nn.init.orthogonal_(conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self.norm(conv(x)).tanh()
        return x


class Slow(torch.fx.Interpreter):
    """Leaves other threads time to write between two ops."""

    def run_node(self, node: torch.fx.Node) -> Any:
        time.sleep(1e-4)
        return super().run_node(node)


def slow(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
    return lambda *args: Slow(graph).run(*args)  # one for each call: it keeps state


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("weights", "inner"), [("live", slow), ("live", "inductor"), ("frozen", "inductor")]
)
def test_no_torn_sets(weights: str, inner: Any) -> None:
    model, x = Shared(), torch.randn(2, 4, 3, 3)
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights, "inner": inner})
    states = [torch.full((4,), value) for value in (0.9, -1.1)]
    expected = []
    with torch.no_grad():
        for state in states:
            model.norm.weight.copy_(state)
            expected.append(model(x))
            compiled(x)  # compiles what is to be compiled
    assert (expected[0] - expected[1]).abs().max() > 0.1
    stop, wrong, seen = threading.Event(), [], [0, 0]

    def call() -> None:
        try:
            while not stop.is_set():
                with torch.no_grad():
                    out = compiled(x)
                errors = [float((out - answer).abs().max()) for answer in expected]
                best = errors.index(min(errors))
                seen[best] += 1
                if errors[best] > 1e-4:
                    wrong.append(errors)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    start, turn = time.monotonic(), 0

    def goes_on() -> bool:
        """Longer on a busy machine, where one of the calls may compile all the while."""
        passed = time.monotonic() - start
        return not wrong and (passed < SECONDS or (min(seen) <= 5 and passed < 30 * SECONDS))

    with torch.no_grad():
        while goes_on():
            turn += 1
            model.norm.weight.copy_(states[turn % 2])
            time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a deadlock"
    assert wrong == []
    assert min(seen) > 5, "both sets were to be seen"
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected[turn % 2], rtol=0, atol=1e-4)


def test_threads_with_models_of_their_own() -> None:
    """Sets are added while others are served."""
    models = [Shared() for _ in range(4)]
    for at, model in enumerate(models):
        model.norm.weight.fill_(0.5 + 0.2 * at)

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    compiled = torch.compile(forward, backend="bnfx", options={"inner": "eager"})
    x, wrong = torch.randn(2, 4, 3, 3), []
    with torch.no_grad():
        compiled(models[0], x)

    def call(model: Any) -> None:
        try:
            with torch.no_grad():
                for step in range(40):
                    model.norm.bias.fill_(step / 40)
                    torch.testing.assert_close(compiled(model, x), model(x), rtol=0, atol=1e-5)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


SCRIPT = """
    import os, signal, sys, threading, time, warnings
    import torch
    from torch import nn
    from recorded import small
    warnings.simplefilter("ignore")  # of forking with threads
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), *small())
    model[2] = nn.Conv2d(128, 8, 3)
    model.eval().requires_grad_(False)
    x = torch.randn(1, 64, 9, 9)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    stop, inside = threading.Event(), threading.Event()
    with torch.no_grad():
        compiled(x)

    def refresh():
        with torch.no_grad():
            while not stop.is_set():
                model[1].weight.mul_(-1.0)
                compiled(x)
                inside.set()

    thread = threading.Thread(target=refresh)
    thread.start()
    inside.wait()
    held = 0

    def is_free(lock):
        return lock._lock.acquire(blocking=False) and lock._lock.release() is None

    children = []
    for _ in range(CHILDREN):
        end = time.monotonic() + 30
        while time.monotonic() < end:  # until a refresh is under way, for most of them
            if not all(map(is_free, LOCKS)):
                held += 1
                break
        child = os.fork()
        if child == 0:
            with torch.no_grad():
                for _ in range(2):
                    model[3].bias.add_(1.0)
                    good = torch.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)
                    if not good:
                        os._exit(1)
            os._exit(0)
        children.append(child)
    deadline, failed = time.monotonic() + 300, []
    for child in children:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                status = "hangs"
            time.sleep(0.01)
        if status != 0:
            failed.append(status)
    stop.set()
    thread.join()
    print(f"{CHILDREN} children, {held} forked during a refresh, failed: {failed}")
    sys.exit(bool(failed) or held < CHILDREN // 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_children_of_a_busy_parent() -> None:
    prelude = "from bnfx.inner.locks import _ALL as LOCKS\nCHILDREN = 12\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(SCRIPT)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "failed: []" in result.stdout
