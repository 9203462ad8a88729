"""Weights that a graph computes at each call, and those that are filled in again from a recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, parameters, traced
from support import relative
from torch import fx

from bnfx.passes.algebra import Evaluator, Expression, Scalar, Source
from bnfx.passes.algebra.expressions.expression import Elementwise, Ones, Reshaped
from bnfx.passes.algebra.expressions.rearrange import (
    Eye,
    Joined,
    MatMul,
    Permuted,
    Slice,
    Sum,
    Table,
)
from bnfx.passes.fx.lift import Lifted, lift
from bnfx.passes.fx.lowering.recipe import Recipe
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.lowering.trace import trace_slots
from bnfx.passes.fx.rewrite import rewrite

A, B = Source("a", (3, 4), "float64"), Source("b", (4, 2), "float32")
NUMBER = Source("n", (), "float64")
TABLE = Table(((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)))
TENSORS = {
    "a": torch.rand(3, 4, dtype=torch.float64) + 0.5,
    "b": torch.rand(4, 2) + 0.5,
    "n": torch.tensor(0.75, dtype=torch.float64),
}
VALUES: dict[str, Expression] = {
    "source": A,
    "number": Scalar(2.5),
    "ones": Ones((2, 3)),
    "reshaped": Reshaped(A, (4, 3)),
    "a number, reshaped": Reshaped(Scalar(2.0), (1, 1)),
    "root": A.sqrt(),
    "root of a number": Elementwise("sqrt", (Scalar(2.0),)),
    "arithmetic": (A + 2.0) * NUMBER - A / 3.0,
    "negative": -A,
    "of numbers": Elementwise("add", (Scalar(2.0), Scalar(0.5))),
    "permuted": Permuted(A, (1, 0)),
    "joined": Joined((A, Elementwise("multiply", (A, Scalar(3.0)))), 1),
    "a part": Slice(A, 1, 1, 3),
    "sum": Sum(A, (1,)),
    "product": MatMul(A, B),
    "of identities": MatMul(Eye(3), A),
    "table": TABLE,
    "of tables": MatMul(Permuted(TABLE, (1, 0)), A) + Sum(TABLE, (0,)).reshape(2, 1),
}


def _start(tensors: dict[str, torch.Tensor]) -> tuple[fx.Graph, Lifted]:
    """A graph that has inputs by now, and another one that was lifted."""
    graph, original = fx.Graph(), fx.Graph()
    for name in tensors:
        graph.placeholder(name)
        original.placeholder(name)
    original.output(None)
    lifted = lift(fx.GraphModule({}, original), tensors, {}, {})
    lifted.sources.tensors.update(tensors)
    return graph, lifted


@pytest.mark.parametrize("name", VALUES)
def test_expressions_are_written(name: str) -> None:
    expression = VALUES[name]
    graph, lifted = _start(TENSORS)
    slots = [Slot("s", expression, "float64"), Slot("t", expression, "float32")]
    nodes, tables = trace_slots(graph, slots, lifted, torch.float64)
    graph.output(tuple(nodes.values()))
    given = [torch.asarray(table.array) for table in tables]
    assert set(tables) == ({TABLE} if "table" in name else set())
    got, rounded = fx.GraphModule({}, graph)(*TENSORS.values(), *given)
    numbers = {key: value.double().numpy() for key, value in TENSORS.items()}
    want = np.asarray(Evaluator(lambda source: numbers[source.name], np.zeros(()))(expression))
    assert (got.shape, got.dtype, rounded.dtype) == (want.shape, torch.float64, torch.float32)
    assert np.allclose(got.numpy(), want, rtol=1e-14)
    assert torch.equal(rounded, got.float())
    assert (nodes["s"].target == "to") == (name == "source")  # once, if at all


class Odd(Expression):
    """None that anybody can write."""

    @property
    def shape(self) -> tuple[int, ...]:
        return ()


def test_what_is_written_once_and_where() -> None:
    graph, lifted = _start({**TENSORS, "b": TENSORS["b"].to("meta")})
    root, ones = A.sqrt(), Ones((2, 1))
    names = {"p": root * root, "q": root + 2.0, "r": B + 1.0, "s": MatMul(B, ones) * NUMBER}
    slots = [Slot(name, value, "float64") for name, value in names.items()]
    other = Table(((1.0,),))
    _, tables = trace_slots(graph, slots, lifted, torch.float64, [other, other])
    assert list(tables) == [other]
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called.count(torch.sqrt) == 1
    devices = [n.kwargs["device"].type for n in graph.nodes if n.target is torch.ones]
    assert devices == ["meta"]
    with pytest.raises(TypeError, match="to write Odd"):
        trace_slots(graph, [Slot("o", Odd(), "float64")], lifted, torch.float64)


@pytest.mark.parametrize("value", [Ones((2,)), Scalar(1.0), NUMBER * Ones((2,)), A + Ones((4,))])
def test_constants_are_where_the_weights_are(value: Expression) -> None:
    """A number is on the host, and none of them."""
    tensors = {"n": TENSORS["n"], "a": TENSORS["a"].to("meta")}
    graph, lifted = _start(tensors)
    trace_slots(graph, [Slot("o", value, "float64")], lifted, torch.float64)
    made = (node for node in graph.nodes if node.target in (torch.ones, torch.full))
    assert [node.kwargs["device"].type for node in made] == ["meta"]


def test_constants_of_a_graph_without_weights() -> None:
    graph, lifted = _start({})
    nodes, _ = trace_slots(graph, [Slot("o", Ones((2,)), "float64")], lifted, torch.float64)
    assert nodes["o"].kwargs["device"].type == "cpu"


def computed(n: Any, x: Any) -> Any:
    """A weight that the graph computes from others, by way of several, one of them twice."""
    root = torch.exp(n.other.weight)
    weight = torch.add(root, torch.mul(root, root))
    y = F.conv2d(x, weight, n.other.bias)
    more = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
    return F.batch_norm(F.batch_norm(y, *more, False, 0.1, 1e-5).tanh(), *more, False, 0.1, 1e-5)


@pytest.mark.parametrize("inputs", [True, False])
def test_computed_weights_are_computed_again(inputs: bool) -> None:
    net, module = traced(computed)
    tensors = parameters(module) if inputs else {}
    result = rewrite(module, tensors, form="traced")
    assert len(result.slots) == 4
    assert len(result.module.graph.find_nodes(op="call_function", target=torch.exp)) == 1
    for _ in range(2):
        with torch.no_grad():
            assert relative(result.module(*tensors.values(), X), net(X)) < 1e-13
            net.other.weight.mul_(-0.5)
            net.bn.running_var.add_(1)


def _recipe(inputs: bool) -> tuple[Any, Any, Recipe, dict[str, torch.Tensor]]:
    net, module = traced(computed)
    tensors = parameters(module) if inputs else {}
    result = rewrite(module, tensors, form="placeholders")
    assert result.recipe is not None
    return net, result, result.recipe, tensors


@pytest.mark.parametrize("inputs", [True, False])
def test_slots_are_filled_again(inputs: bool) -> None:
    net, result, recipe, tensors = _recipe(inputs)
    for _ in range(2):
        weights = recipe.fill(tensors)
        assert weights is not None
        assert not any(weight.requires_grad for weight in weights)
        with torch.no_grad():
            assert relative(result.module(*tensors.values(), X, *weights), net(X)) < 1e-13
            net.other.weight.mul_(-0.5)
            net.bn.running_var.add_(1)
    again = recipe.fill(tensors)
    for mine, theirs in zip(again or [], result.evaluate() or [], strict=True):
        assert mine.shape == theirs.shape


def test_other_numbers_than_a_recipe_is_for() -> None:
    net, _, recipe, tensors = _recipe(True)
    assert recipe.fill(tensors) is not None
    with torch.no_grad(), torch.inference_mode():
        weights = recipe.fill(tensors)
        assert weights is not None
        assert not any(weight.is_inference() for weight in weights)
        net.bn.running_var.fill_(float("inf"))
        net.bn.running_mean.fill_(float("inf"))
    assert recipe.fill(tensors) is None
