"""Calls on several streams and threads; one model that moves between devices."""

from __future__ import annotations

import threading

import pytest
import torch
from gpu.nets import Net, error, exact, picture, relative, without_tf32

pytestmark = pytest.mark.gpu


def test_two_streams(cuda: str) -> None:
    """Weights that were folded on one stream are there on another, and outlive its work."""
    model, x = Net().to(cuda), picture(cuda)
    streams = [torch.cuda.Stream() for _ in range(2)]
    options = {"weights": "live"}
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options=options)
        compiled(x)
        for turn in range(20):
            model.norm.weight.mul_(-1.02)
            for stream in streams:
                stream.wait_stream(torch.cuda.current_stream())
            outs = []
            for stream in streams:
                with torch.cuda.stream(stream):
                    outs.append(compiled(x))
            for stream in streams:
                torch.cuda.current_stream().wait_stream(stream)
            expected = exact(model, x)
            assert all(relative(out, expected) < 1e-4 for out in outs), turn


def test_threads_with_streams_of_their_own(cuda: str) -> None:
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", options={"weights": "live"})
        compiled(x)
        expected = exact(model, x)
        errors: list[float] = []
        torch.cuda.synchronize()

        def work() -> None:
            with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(20):
                    out = compiled(x)
                    torch.cuda.current_stream().synchronize()
                    errors.append(relative(out, expected))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 80
    assert max(errors) < 1e-4


def test_there_and_back(device: str) -> None:
    """``model.to``: new tensors, another device, code for both."""
    model = Net()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    with torch.no_grad(), without_tf32():
        for place in ("cpu", device, "cpu", device):
            model.to(place)
            model.norm.weight.mul_(-1.2)
            assert error(model, compiled, picture(place)) < 1e-4, place


def test_inference_mode(device: str) -> None:
    with torch.inference_mode(), without_tf32():
        model, x = Net().to(device), picture(device)
        compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
        for _ in range(2):
            assert error(model, compiled, x) < 1e-4
            model.norm.weight.mul_(-1.2)
