"""The comparison that does not wait: what it notices, and when.

On CPU tensors, through the code that other devices take; their answers are there at once.
"""

from __future__ import annotations

import pytest
import torch
from support import Capture, randomise, relative
from torch import nn

import bnfx
from bnfx.weights.changes import content
from bnfx.weights.changes.content import Content


@pytest.fixture(autouse=True)
def _on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_is_on_host", lambda tensor: False)


def tensors() -> list[torch.Tensor]:
    """Of several dtypes; joined, sampled, and compared alone, since it has gaps."""
    gaps = torch.randn(8, 8)[:, ::2]
    return [torch.randn(5), torch.randn(100, 100), torch.arange(3), torch.ones(4).half(), gaps]


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("check", ["content", "deferred", "marks"])
def test_when_a_write_is_noticed(check: str, at: int) -> None:
    some = tensors()
    held = Content(some, everything=False, check=check)
    assert all(held.is_same() for _ in range(3))
    some[at].view(-1)[::1].add_(1) if some[at].is_contiguous() else some[at].add_(1)
    # The question that was on its way was asked before the write.
    answers = [held.is_same() for _ in range(3)]
    assert (
        answers
        == {"content": [False] * 3, "deferred": [True, False, False], "marks": [True] * 3}[check]
    )


def test_a_change_that_was_seen_stays_one() -> None:
    """It was in an answer: what was folded from it must go, even if the write is undone."""
    (tensor,) = some = [torch.zeros(5)]
    held = Content(some, everything=False, check="deferred")
    tensor.add_(1)
    assert [held.is_same() for _ in range(2)] == [True, False]
    tensor.sub_(1)
    assert not held.is_same()


def test_nothing_is_asked_while_an_answer_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.weights.changes import device_content

    ready: list[bool] = [False]
    monkeypatch.setattr(device_content._Asked, "is_answered", lambda asked: ready[0])
    (tensor,) = some = [torch.zeros(5)]
    held = Content(some, everything=False, check="deferred")
    (device,) = held._elsewhere
    assert held.is_same()
    asked = device._asked
    tensor.add_(1)
    assert held.is_same()
    assert device._asked is asked
    ready[0] = True
    assert [held.is_same() for _ in range(2)] == [True, False]


def test_while_a_stream_is_recorded_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfx.weights.changes import device_content

    (tensor,) = some = [torch.zeros(5)]
    held = Content(some, everything=False)
    tensor.add_(1)
    with monkeypatch.context() as recording:
        recording.setattr(device_content, "_is_recorded", lambda: True)
        assert held.is_same()
    assert not held.is_same()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        randomise(self).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


X = torch.randn(2, 3, 6, 6)


@pytest.mark.parametrize(("check", "late"), [("content", 0), ("deferred", 1), ("marks", None)])
def test_a_compiled_model(check: str, late: int | None) -> None:
    """Marked writes are in the next answer whatever the option; others as it says."""
    model = Net()
    options = {"inner": "eager", "check": check}
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options=options)

        def is_right() -> bool:
            return relative(compiled(X), model(X)) < 1e-5

        assert is_right()
        model.norm.weight.mul_(-1.2)
        assert is_right()
        assert is_right()
        model.norm.bias.data.add_(1)
        answers = [is_right() for _ in range(4)]
        assert answers == [late is not None and call >= late for call in range(4)]
        bnfx.refresh(compiled)
        assert is_right()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_weights_are_laid_out_with_channels_last(inner: str) -> None:
    model, capture = Net(), Capture()
    options = {"weights": "live", "weight_layout": "channels_last", "inner": inner}
    with torch.no_grad():
        if inner == "eager":
            options = {**options, **capture.options}
        compiled = torch.compile(model, backend="bnfx", options=options)
        for _ in range(3):
            assert relative(compiled(X), model(X)) < 1e-5
            model.norm.weight.mul_(-1.2)
    if inner == "eager":
        (graph,) = capture.graphs
        found = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
        weights = [value for value in found if value.shape == (8, 3, 3, 3)]
        layouts = {value.is_contiguous(memory_format=torch.channels_last) for value in weights}
        assert True in layouts
