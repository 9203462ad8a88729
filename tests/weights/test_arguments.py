"""Which arguments may be constants, packed, or folded from."""

from __future__ import annotations

from typing import Any

import torch
from folding import FREEZES, captured, made
from torch import fx, nn

from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.weights.arguments import Arguments


def refusal(**changed: torch.Tensor) -> str:
    graph = fx.Graph()
    x, w, b = (graph.placeholder(name) for name in "xwb")
    graph.output((graph.call_function(torch.addmm, (b, x, w)),))
    inputs = {"x": torch.ones(2, 2), "w": nn.Parameter(torch.ones(2, 2)), "b": torch.ones(2)}
    inputs |= changed
    parameters = {name: inputs[name] for name in "wb"}
    positions = {name: at for at, name in enumerate("xwb")}
    known = GraphInputs(positions, parameters, {}, {"x": inputs["x"]})
    return Arguments.of(fx.GraphModule({}, graph), known).refusal


class Wrapped(torch.Tensor):
    pass


def test_parameters_that_cannot_be_constants() -> None:
    assert refusal() == ""
    assert refusal(x=torch.ones(2, 2, dtype=torch.float64)) == ""
    assert refusal(b=torch.ones(2, dtype=torch.long)) == ""
    assert refusal(w=torch.ones(2, 2, dtype=torch.float64)) == "oneDNN has no float64"
    odd: list[Any] = [torch.ones(2).as_subclass(Wrapped), torch.ones(2).to_sparse()]
    for each in (*odd, torch.ones(2, dtype=torch.complex64)):
        assert refusal(b=each) == "b is no plain tensor"


def test_what_may_be_folded_from() -> None:
    """What is watched, and numbers; nothing that nobody vouches for."""
    positions = {name: at for at, name in enumerate("xwbe")}
    arguments = Arguments(positions, {"w": 1, "b": 2}, {"e": 3}, {"x": 0}, (), "", {})
    assert arguments.tensors("XWBE", {0, 2}) == {"b": "B", "e": "E"}
    assert arguments.scalar_values([0, 0, 0, torch.tensor(0.5)]) == (0.5,)


def test_what_is_packed() -> None:
    """Of several elements, in a dtype that oneDNN has; and where each stands."""
    each = made(FREEZES)
    arguments = each.function._arguments
    assert arguments.floats == arguments.parameters
    assert arguments.not_bound(arguments.parameters) == tuple(arguments.others.values())
    graph, examples = captured()
    odd = [value[:1] if value.dim() == 1 else value.double() for value in examples]
    assert not Arguments.of(graph, GraphInputs.of(graph, odd)).floats


def test_a_graph_that_writes() -> None:
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    graph.output((graph.call_function(torch.mm, (graph.call_method("add_", (x, 1)), w)),))
    given = {name: torch.ones(2, 2) for name in "xw"}
    inputs = GraphInputs({"x": 0, "w": 1}, {"w": given["w"]}, {}, {"x": given["x"]})
    arguments = Arguments.of(fx.GraphModule({}, graph), inputs)
    assert arguments.written == (0,)
    assert arguments.refusal == "the graph writes to an input or parameter"
