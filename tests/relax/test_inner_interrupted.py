"""``inner="tvm"``: what an interrupt or a fork in the middle of a first call leaves behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any
from unittest import mock

import pytest
import torch
from support import randomise
from torch import nn

from bnfx.inner.tvm.part import TvmPart
from bnfx.inner.tvm.sized import PerSize

pytest.importorskip("tvm")

SECONDS = 60


def _net() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return randomise(net, 0).eval()


def test_after_an_interrupt_the_next_answer_is_compared() -> None:
    model, x = _net(), torch.randn(1, 4, 6, 6)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "tvm"})
    with torch.no_grad():
        with (
            mock.patch.object(TvmPart, "_in_torch", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            compiled(x)
        with mock.patch("bnfx.inner.tvm.part.difference", return_value=None) as compared:
            compiled(x), compiled(x)
        assert compared.call_count == 1
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_during_a_build_answers() -> None:
    model = _net()
    compiled = torch.compile(model, backend="bnfx", dynamic=True, options={"inner": "tvm"})
    with torch.no_grad():
        compiled(torch.randn(2, 4, 8, 9))
    builds, go_on, build = threading.Event(), threading.Event(), PerSize._build

    def slow(self: PerSize, args: Any) -> Any:
        builds.set()
        assert go_on.wait(SECONDS)
        return build(self, args)

    def call() -> None:
        with torch.no_grad():
            compiled(torch.randn(2, 4, 9, 10))

    with mock.patch.object(PerSize, "_build", slow):
        thread = threading.Thread(target=call)
        thread.start()
        assert builds.wait(SECONDS)
        child = os.fork()
        if not child:
            go_on.set()
            x = torch.randn(2, 4, 10, 11)
            with torch.no_grad():
                right = torch.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-5)
            os._exit(0 if right else 1)
        try:
            assert _status(child) == 0
        finally:
            go_on.set()
            thread.join()


def _status(child: int) -> int | None:
    """How it ended; ``None`` if it never did."""
    for _ in range(SECONDS * 10):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
