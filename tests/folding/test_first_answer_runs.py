"""What the look at a first answer runs once more: nothing that anybody could notice."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bnfx.folding.first_answer import unexplained

X = torch.linspace(0.1, 1.0, 64)


def fail(*args: Any) -> Any:
    raise AssertionError("nobody was to look")


def added(x: torch.Tensor, y: torch.Tensor) -> Any:
    return (x + y,)


def test_a_graph_without_numbers_is_not_run() -> None:
    fake = FakeTensorMode().from_tensor(X)
    assert unexplained(fx.symbolic_trace(added), fail, [X, fake]) is None


class Leaf(nn.Module):
    def forward(self) -> None:
        fail()


def users_own(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def noted(*args: Any) -> None:
    """What reads no tensor writes to none, and may log or count."""


def graph_of(target: Any, *more: Any) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    if target is noted:
        graph.call_function(target, more)
        target = torch.relu
    graph.output((graph.call_function(target, (x, *more)),))
    return fx.GraphModule({}, graph)


@pytest.mark.parametrize(
    ("target", "more", "is_run"),
    [
        (torch.mul, (2,), True),
        (operator.mul, (2,), True),
        (torch.ops.aten.mul.Tensor, (2,), True),
        (torch.ops.aten.relu6, (), True),
        (torch.ops.prims.sin.default, (), True),
        (torch.nn.functional.relu, (), True),
        (max, (), True),
        (torch.ops._c10d_functional.wait_tensor.default, (), False),
        (torch.ops._c10d_functional.wait_tensor, (), False),
        (torch.distributed.nn.functional.all_gather, (), False),
        (torch.ops.higher_order.wrap, (), False),
        (users_own, (), False),
        (noted, (), False),
        (torch.rand_like, (), False),
    ],
)
def test_what_may_be_run_once_more(target: Any, more: Sequence[Any], is_run: bool) -> None:
    ran: list[int] = []

    def compiled(x: torch.Tensor) -> Any:
        ran.append(1)
        return (x,)

    unexplained(graph_of(target, *more), compiled, [X])
    assert bool(ran) == is_run


def test_a_layer_of_others_is_not_run_once_more() -> None:
    """Not even one that takes no tensor, and so writes to none."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_module("leaf", ())
    graph.output((graph.call_function(torch.relu, (x,)),))
    assert unexplained(fx.GraphModule({"leaf": Leaf()}, graph), fail, [X]) is None
