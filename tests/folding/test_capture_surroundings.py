"""What a model asks of what is around a call: a clock, random numbers, globals, modes, text."""

from __future__ import annotations

import io
import os
import pickle
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import randomise, relative
from torch import nn

import bnfx

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
CALLS = [0]
DRAWS = np.random.default_rng(0)


def net(factor: Callable[[Any, Any], Any]) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            return self.bn(self.conv(x)) * factor(self, x)

    return randomise(Net().double()).eval()


def counted(net: Any, x: Any) -> int:
    CALLS[0] += 1
    return CALLS[0]


def seeded(net: Any, x: Any) -> float:
    random.seed(0)
    return random.random()


OTHERWISE: dict[str, Callable[[Any, Any], Any]] = {
    "random": lambda net, x: random.random(),
    "one of two": lambda net, x: random.choice([1, 1]),
    "numpy": lambda net, x: float(np.random.rand()),
    "a generator": lambda net, x: float(DRAWS.random()),
    "a new generator": lambda net, x: float(np.random.default_rng().random()),
    "torch": lambda net, x: int(torch.randint(1, 9, ())),
    "no number of it": lambda net, x: 1 + 0 * int(torch.randint(1, 9, ())),
    "a constant": lambda net, x: torch.rand(()),
    "a clock": lambda net, x: time.perf_counter(),
    "the system's": lambda net, x: 1 + os.urandom(8)[0] * 2**16 + os.urandom(8)[0],
    "a name": lambda net, x: 1 + uuid.uuid4().int % 2**20,
    "a global": counted,
    "a seed": seeded,
}


@pytest.mark.parametrize("factor", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_a_trace_holds_nothing_that_changes(factor: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(
        bnfx.CaptureError, match=r"draws (\w+'s )?random numbers|runs otherwise each time"
    ):
        bnfx.fold(net(factor), keep="graph")


def asks_for_gradients(net: Any, x: Any) -> int:
    return 2 if torch.is_grad_enabled() else 3


def asks_for_autocast(net: Any, x: Any) -> int:
    return 2 if torch.is_autocast_enabled("cpu") else 3


def asks_for_the_kind(net: Any, x: Any) -> int:
    return 2 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else 3


asks = torch.is_grad_enabled


def asks_by_another_name(net: Any, x: Any) -> int:
    return 2 if asks() else 3


def asks_of_the_input(net: Any, x: Any) -> int:
    return 2 if x.requires_grad else 3


def asks_whether_it_is_a_leaf(net: Any, x: Any) -> int:
    return 2 if (x * 1).is_leaf else 3


GRADIENTS = [asks_for_gradients, asks_by_another_name, asks_whether_it_is_a_leaf]


@pytest.mark.parametrize("factor", [*GRADIENTS[:2], asks_for_autocast, asks_for_the_kind])
def test_modes_are_no_part_of_a_trace(factor: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(bnfx.CaptureError, match="asks for the mode of"):
        bnfx.fold(net(factor), keep="graph")


def _forms(graph: nn.Module) -> list[Any]:
    """The graph, and what is left of it when it was written to a file in whichever mode."""
    found = [graph]
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            file = io.BytesIO()
            pickle.dump(graph, file)
            found.append(pickle.loads(file.getvalue()))
    return found


@pytest.mark.parametrize("factor", GRADIENTS)
def test_a_graph_asserts_that_there_are_no_gradients(factor: Callable[[Any, Any], Any]) -> None:
    model = net(factor)
    for graph in _forms(bnfx.fold(model, X, keep="graph")):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert relative(graph(X), model(X)) < 1e-12
        with pytest.raises(AssertionError, match=r"calls under torch\.no_grad"):
            graph(X)


@pytest.mark.parametrize("factor", [asks_for_autocast, asks_for_the_kind])
def test_a_graph_asserts_that_there_is_no_autocast(factor: Callable[[Any, Any], Any]) -> None:
    model = net(factor)
    for graph in _forms(bnfx.fold(model, X, keep="graph")):
        assert relative(graph(X), model(X)) < 1e-12
        with (
            pytest.raises(AssertionError, match="calls without autocast"),
            torch.autocast("cpu"),
        ):
            graph(X)


def test_a_graph_asserts_what_an_input_requires() -> None:
    model = net(asks_of_the_input)
    graph = bnfx.fold(model, X, keep="graph")
    with torch.no_grad():
        assert relative(graph(X), model(X)) < 1e-12
        with pytest.raises(AssertionError, match="x with requires_grad=False"):
            graph(X.clone().requires_grad_())


def test_what_torch_itself_asks_is_not_asserted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn(self.conv(x)).transpose(1, 2)
            return self.attention(y, y, y, need_weights=False)[0]

    model, x = randomise(Net().double()).eval(), torch.randn(2, 4, 5, dtype=torch.float64)
    graph = bnfx.fold(model, x, keep="graph")
    assert relative(graph(x), model(x)) < 1e-12
    with torch.no_grad():
        assert relative(graph(x), model(x)) < 1e-12


@pytest.mark.parametrize(
    "factor",
    [
        lambda net, x: len(f"{x.dim()}"),
        lambda net, x: len(f"a {x.dtype!r}"),
        lambda net, x: len("%s" % (x.shape,)),  # noqa: UP031
        lambda net, x: len("{}".format(x.dim())),  # noqa: UP032
        lambda net, x: {"4": 2}.get(f"{x.dim()}", 3),
    ],
)
def test_text_says_how_a_symbol_is_printed(factor: Callable[[Any, Any], Any]) -> None:
    model = net(factor)
    with pytest.raises(bnfx.CaptureError, match="may decide by an argument"):
        bnfx.fold(model, keep="graph")
    assert relative(bnfx.fold(model, X, keep="graph")(X), model(X)) < 1e-12


def test_text_for_people_decides_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.bn, self.small = nn.BatchNorm2d(3), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._assert(x.dim() == 4, f"not of {x.dim()} dimensions")
            if self.small:
                raise ValueError("too large: {}".format(x.shape))  # noqa: UP032
            total = 0
            for number, each in enumerate([x, x * 2], 1):
                total = total + self.bn(getattr(self, f"conv{number}")(each))
            return total

    model = randomise(Net().double()).eval()
    graph = bnfx.fold(model, keep="graph")
    assert relative(graph(X), model(X)) < 1e-12
    assert not any(isinstance(each, nn.BatchNorm2d) for each in graph.modules())
