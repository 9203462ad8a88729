"""CUDA graphs read weights at fixed addresses, and answer with refreshed ones."""

from __future__ import annotations

import pytest
import torch
from gpu.nets import Net, error, exact, picture, without_tf32
from support import relative

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("weights", "check"),
    [("frozen", "content"), ("live", "content"), ("frozen", "marks"), ("live", "deferred")],
)
def test_reduce_overhead_sees_writes(cuda: str, weights: str, check: str) -> None:
    model, x = Net().to(cuda), picture(cuda)
    options = {"weights": weights, "check": check}
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", mode="reduce-overhead", options=options)
        for turn in range(3):
            for _ in range(5):  # warm-up, recording, replay
                assert error(model, compiled, x) < 1e-4, turn
            model.norm.weight.mul_(-1.2)


def test_an_answer_is_kept_by_a_copy_alone(cuda: str) -> None:
    """As with Inductor: the next replay writes to the same memory."""
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", mode="reduce-overhead")
        for _ in range(4):
            compiled(x)
        kept = compiled(x).clone()
        compiled(x * 2)
        assert relative(kept, exact(model, x)) < 1e-4


def test_a_graph_that_the_user_records(cuda: str) -> None:
    """While a stream is recorded, nothing is read from the device."""
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                compiled(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = compiled(x)
        other = picture(cuda, seed=2)
        x.copy_(other)
        graph.replay()
        assert relative(out, exact(model, other)) < 1e-4


@pytest.mark.parametrize("mode", ["max-autotune-no-cudagraphs", "max-autotune"])
def test_max_autotune(cuda: str, mode: str) -> None:
    model, x = Net().to(cuda), picture(cuda)
    with torch.no_grad(), without_tf32():
        compiled = torch.compile(model, backend="bnfx", mode=mode)
        for _ in range(3):
            assert error(model, compiled, x) < 1e-4
        model.norm.weight.mul_(-1.2)
        for _ in range(3):
            assert error(model, compiled, x) < 1e-4
