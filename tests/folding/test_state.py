"""A graph holds no Python state: what forward keeps from call to call is no graph's to keep."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

import bnfx

CALLS: list[int] = []


class State:
    calls = 0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.calls, self.log, self.kept = 0, [0], {}
        self.state = State()
        self.inner = nn.Identity()
        self.inner.calls = 0
        self.register_buffer("count", torch.zeros(()))
        self.last: torch.Tensor | None = None

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def net(forward: Callable[[Any, torch.Tensor], Any]) -> nn.Module:
    made = randomise(type("Made", (Net,), {"forward": forward})()).double().eval()
    CALLS.clear()
    return made


def counts(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    return self.features(x) * self.calls


def counts_in_a_child(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.inner.calls += 1
    return self.features(x) * self.inner.calls


def counts_in_an_object(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.state.calls += 1
    return self.features(x) * self.state.calls


def counts_in_a_list(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.log[0] += 1
    return self.features(x) * self.log[0]


def appends(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.log.append(1)
    return self.features(x) * len(self.log)


def counts_in_a_global(self: Any, x: torch.Tensor) -> torch.Tensor:
    CALLS.append(1)
    return self.features(x) * len(CALLS)


def exchanges_a_buffer(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count = self.count + 1
    return self.features(x) * self.count


def answers_by_the_first_input(self: Any, x: torch.Tensor) -> torch.Tensor:
    if "first" not in self.kept:
        self.kept["first"] = x.mean()
    return self.features(x) * self.kept["first"]


def smooths_over_calls(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.features(x)
    self.last = y if self.last is None else 0.5 * (self.last + y)
    return self.last


def every_tenth_call(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    return -self.features(x) if self.calls % 10 == 0 else self.features(x)


KEEPS = [
    counts,
    counts_in_a_child,
    counts_in_an_object,
    counts_in_a_list,
    appends,
    counts_in_a_global,
    exchanges_a_buffer,
    answers_by_the_first_input,
    smooths_over_calls,
    every_tenth_call,
]


@pytest.mark.parametrize("forward", KEEPS)
def test_what_is_kept_between_calls_is_no_graph(forward: Any) -> None:
    model, x = net(forward), torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(
        bnfx.CaptureError, match=r"forward of Made writes to .*which a graph cannot"
    ):
        bnfx.fold(model, x, keep="graph")


@pytest.mark.parametrize("forward", KEEPS)
def test_the_class_keeps_it(forward: Any) -> None:
    """Called often enough for the state to matter."""
    model, x = net(forward), torch.randn(1, 3, 6, 6, dtype=torch.float64)
    folded = bnfx.fold(model, x, keep="module", assume="example")
    assert type(folded) is type(model)
    for step in range(11):
        x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
        before = list(CALLS)
        expected = model(x)
        CALLS[:] = before
        torch.testing.assert_close(folded(x), expected, rtol=1e-11, atol=1e-11)
        assert step == 0 or forward is not counts or model.calls == step + 1


def taps(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.last = self.features(x)
    return self.last + 1


def counts_in_place(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count.add_(1)
    return self.features(x) * self.count


@pytest.mark.parametrize("forward", [taps, counts_in_place])
def test_what_no_call_reads_or_a_graph_does_is_no_hindrance(forward: Any) -> None:
    model, x = net(forward), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    folded, reference = bnfx.fold(model, x, keep="graph"), copy.deepcopy(model)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
    for _ in range(3):
        torch.testing.assert_close(folded(x), reference(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("forward", [counts, appends, exchanges_a_buffer, counts_in_a_child])
def test_without_inputs_too(forward: Any) -> None:
    with pytest.raises(bnfx.CaptureError, match=r"writes to .*Pass example inputs"):
        bnfx.fold(net(forward), keep="graph")
