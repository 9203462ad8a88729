"""A child that is forked while another thread refreshes answers, and answers right."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

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
        end = time.monotonic() + 2
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
    deadline, failed = time.monotonic() + 60, []
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_children_of_a_busy_parent() -> None:
    prelude = "from bnfx.inner.locks import _ALL as LOCKS\nCHILDREN = 12\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(SCRIPT)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "failed: []" in result.stdout
