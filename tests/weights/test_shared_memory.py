"""Tensors that come to share memory after a graph was captured, of which Dynamo has no guard."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import fx, nn

from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.weights.arguments import Arguments


class Writing(nn.Module):
    """Writes to a buffer and to an input before the BatchNorm reads its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.register_buffer("count", torch.zeros(8))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.count.add_(1.0)
        y.add_(1.0)
        return self.norm(self.conv(x))


def pair(inner: str) -> tuple[Any, nn.Module, nn.Module]:
    """Compiled, the same model, and another like it."""
    torch.manual_seed(0)
    model = randomise(Writing()).double().eval()
    options = {"inner": inner}
    return torch.compile(model, backend="bnfx", options=options), model, copy.deepcopy(model)


def numbers() -> torch.Tensor:
    return torch.zeros(8, dtype=torch.float64)


def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("gradients", [False, True])
def test_an_input_that_is_written_to_is_a_statistic(inner: str, gradients: bool) -> None:
    """Another one from call to call: nothing that was compiled for the first serves the next."""
    compiled, model, twin = pair(inner)
    x = image()
    with torch.set_grad_enabled(gradients):
        for name in (None, "running_mean", "running_var", "running_mean", "running_var", None):
            ours, theirs = (
                numbers() if name is None else getattr(each.norm, name)[:] for each in (model, twin)
            )
            assert relative(compiled(x, ours), twin(x, theirs)) < 1e-12
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_buffer_that_is_written_to_becomes_a_statistic(inner: str, gradients: bool) -> None:
    compiled, model, twin = pair(inner)
    x = image()
    with torch.set_grad_enabled(gradients):
        assert relative(compiled(x, numbers()), twin(x, numbers())) < 1e-12
        for each in (model, twin):
            each.count.data = each.norm.running_mean.data
        for _ in range(2):
            assert relative(compiled(x, numbers()), twin(x, numbers())) < 1e-12


def test_what_is_written_to_and_not_shared_is_served_as_ever() -> None:
    """As are two that share memory of which none is written to."""
    arguments = Arguments(dict.fromkeys("abcd", 0), {}, {}, {}, (1, 3), "", {})
    free = [torch.zeros(3) for _ in range(4)]
    assert not arguments.writes_to(free, (0, 1, 2, 3))
    for written in (1, 3):
        for read in (0, 2):
            shared = [*free]
            shared[written] = shared[read][1:]
            assert arguments.writes_to(shared, (0, 2))
            assert arguments.writes_to(shared, (read,))
            assert not arguments.writes_to(shared, (2 - read,))
    assert not arguments.writes_to([free[0], free[1], free[0], free[3]], (0, 2))


class Returning(nn.Module):
    def __init__(self, returned: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.register_buffer("table", torch.randn(2, 3, 6, 6))
        self.returned = returned

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.conv(x + self.table)), self.returned(self.table, x)


RETURNED: dict[str, tuple[Callable[..., Any], bool]] = {
    "view_as": (lambda table, x: table.view_as(x), True),
    "expand_as": (lambda table, x: table.expand_as(x), True),
    "type_as": (lambda table, x: table.type_as(x), True),
    "to": (lambda table, x: table.to(x), True),
    "a part of a list": (lambda table, x: table.view_as(x).chunk(2)[1], True),
    "a constant's": (lambda table, x: table.exp().view_as(x), True),
    "a sum": (lambda table, x: table + x, False),
    "another dtype": (lambda table, x: table.type_as(x.double()), False),
    "a copy": (lambda table, x: table.view_as(x) * x, False),
    "the input": (lambda table, x: x.view_as(table), False),
    "a max": (lambda table, x: (x.unbind(0), (table + x).max(dim=0)), False),
}


def refusal(name: str) -> str:
    """Why the graph's parameters cannot be constants."""
    found: list[str] = []

    def backend(graph: fx.GraphModule, example_inputs: Any) -> Any:
        found.append(Arguments.of(graph, GraphInputs.of(graph, example_inputs)).refusal)
        return graph.forward

    with torch.no_grad():
        model = Returning(RETURNED[name][0]).eval()
        torch.compile(model, backend=backend, fullgraph=True)(torch.randn(2, 3, 6, 6))
    (why,) = found
    return why


@pytest.mark.parametrize("name", RETURNED)
def test_memory_of_a_constant_is_not_handed_out(name: str) -> None:
    """The caller may write to it: to the model's own, and not to what later calls read."""
    assert refusal(name) == ("an output depends on no input" if RETURNED[name][1] else "")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["frozen", "auto"])
def test_a_caller_may_write_to_a_view_of_a_buffer(weights: str) -> None:
    torch.manual_seed(0)
    model = randomise(Returning(RETURNED["view_as"][0])).eval()
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 6, 6)
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    with torch.no_grad():
        for _ in range(3):
            ours, theirs = compiled(x), twin(x)
            assert relative(ours[0], theirs[0]) < 1e-5
            for _, view in (ours, theirs):
                view.add_(1.0)
            assert relative(model.table, twin.table) == 0
