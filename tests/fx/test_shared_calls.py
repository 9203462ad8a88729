"""Which BatchNorms in training share a call, and what moves ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx.training.shared_calls import (
    companions,
    parameters_of,
    parameters_of_nested,
)
from bnfx.passes.fx.training.uncaptured import batch_norm_to_swap


@fx.wrap
def unknown(*args: Any) -> Any:
    return args[0]


def bn(x: Any, *stats: Any, weight: Any = None) -> Any:
    return F.batch_norm(x, *(stats or (None, None)), weight, None, True, 0.1, 1e-5)


def _function(x: Any, target: Any, *args: Any) -> Any:
    return x.tracer.create_proxy("call_function", target, args, {})


Run = Callable[..., Any]


def between(middle: Callable[..., Any], read: Callable[..., Any] = lambda x, y, p, q: y) -> Run:
    """``middle`` stands between a BatchNorm of x and one of what ``read`` says."""

    def run(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
        first = bn(x, p, q)
        middle(x, y, p, q)
        return first, bn(read(x, y, p, q))

    return run


def reading(run: Callable[..., Any]) -> Run:
    """A BatchNorm of x, and one of what is computed behind it."""
    return lambda m, x, y, p, q: (bn(x, p, q), bn(run(m, x, y, p, q)))


def view_written(x: Any, y: Any, p: Any, q: Any) -> None:
    y.view(-1).mul_(2)


def fresh_written(x: Any, y: Any, p: Any, q: Any) -> None:
    torch.relu(x).mul_(2)


def chain(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x)
    s = torch.tanh(y)
    b = bn(s)
    t = torch.relu(s)
    u = torch.exp(x)
    return a, b, bn(torch.add(u, t))


def weight_of_stats(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x, p, q)
    return a, bn(y, weight=torch.mul(p, 2))


def stats_read(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x)
    t = torch.mul(p, 2)
    return a, bn(y, p, q), t


def stats_read_first(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x)
    b = bn(torch.add(y, torch.mul(p, 2)), p, q)
    return a, b


def written_ahead(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    """What is moved ahead would read what was not yet written."""
    a = bn(x)
    t = torch.relu(y)
    p.add_(t.sum())
    return a, bn(torch.mul(t, p))


def attribute_written(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    """Each access to an attribute is a node of its own."""
    a = bn(x)
    again = x.tracer.create_proxy("get_attr", "w", (), {})
    x.tracer.create_proxy("call_method", "add_", (again, 1), {})
    return a, bn(torch.mul(y, m.w))


def read_and_written(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x, p, q)
    t = torch.relu(torch.tanh(m.w))
    s = torch.exp(t)
    t.mul_(2)
    return a, bn(torch.mul(y, s))


def written_by_the_third(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x)
    b = bn(torch.mul(y, p))
    return a, b, bn(y, p, q)


def third_apart(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    a = bn(x)
    b = bn(torch.relu(a))
    return b, bn(y)


# What runs, with p and q the buffers, and the groups: members, and what moves ahead.
CASES: dict[str, tuple[Run, str]] = {
    "apart": (lambda m, x, y, p, q: (bn(x), bn(y)), "0+1"),
    "one behind the other": (lambda m, x, y, p, q: bn(bn(x)), "0 1"),
    "by way of another op": (lambda m, x, y, p, q: bn(torch.relu(bn(x))), "0 1"),
    "the same statistics": (lambda m, x, y, p, q: (bn(x, p, q), bn(y, p, q)), "0+1"),
    "what moves ahead": (reading(lambda m, x, y, p, q: torch.relu(y)), "0+1 relu"),
    "several, in order": (chain, "0+1+2 tanh relu exp add"),
    "joins the last": (third_apart, "0 1+2"),
    "an attribute": (reading(lambda m, x, y, p, q: torch.add(y, m.w)), "0+1 w add"),
    "an attribute that is written": (attribute_written, "0 1"),
    "read, then written": (read_and_written, "0+1 w tanh relu exp mul"),
    "read ahead of the third": (written_by_the_third, "0+1+2 mul"),
    "a new value, written over": (reading(lambda m, x, y, p, q: torch.relu(y).mul_(2)), "0 1"),
    "a method of nobody's": (
        reading(lambda m, x, y, p, q: x.tracer.create_proxy("call_method", "of_nobodys", (y,), {})),
        "0 1",
    ),
    "random": (reading(lambda m, x, y, p, q: F.dropout(y)), "0 1"),
    "written over": (reading(lambda m, x, y, p, q: y.mul_(2)), "0 1"),
    "of nobody's": (reading(lambda m, x, y, p, q: unknown(y)), "0 1"),
    "a number": (
        reading(lambda m, x, y, p, q: torch.mul(y, y.storage_offset())),
        "0+1 storage_offset mul",
    ),
    "maybe no number": (reading(lambda m, x, y, p, q: torch.mul(y, y.data_ptr())), "0 1"),
    "reads what is written": (weight_of_stats, "0 1"),
    "writes what was read": (stats_read, "0 1"),
    "writes what it reads": (stats_read_first, "0+1 mul add"),
    "an input is written": (between(lambda x, y, p, q: y.mul_(2)), "0 1"),
    "a view of it is": (between(view_written), "0 1"),
    "another input is": (between(lambda x, y, p, q: x.mul_(2)), "0 1"),
    "a new value is": (between(fresh_written), "0+1"),
    "a buffer is": (between(lambda x, y, p, q: p.add_(1)), "0+1"),
    "a buffer is, and read": (
        between(lambda x, y, p, q: p.add_(1), lambda x, y, p, q: torch.mul(y, p)),
        "0 1",
    ),
    "written between": (written_ahead, "0 1"),
    "gradients": (between(lambda x, *r: _function(x, torch._C._set_grad_enabled, False)), "0 1"),
    "an assertion": (between(lambda x, *r: _function(x, torch._assert, True, "")), "0 1"),
    "a method of no use": (between(lambda x, *r: x.size()), "0+1"),
    "an op in use": (reading(lambda m, x, y, p, q: (torch.relu(x), y)[1]), "0 1"),
}


def _entered(m: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
    enter = torch.amp.autocast_mode._enter_autocast
    a = bn(x)
    mode = _function(x, enter, "cpu", None, True, None)
    b = bn(y)
    _function(x, torch.amp.autocast_mode._exit_autocast, mode)
    return a, b


CASES["autocast"] = (_entered, "0 1")


class Root(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 1, 1))
        self.run = run

    def forward(self, x: Any, y: Any, p: Any, q: Any) -> Any:
        return self.run(self, x, y, p, q)


@pytest.mark.parametrize("name", CASES)
def test_who_shares_a_call(name: str) -> None:
    run, expected = CASES[name]
    module = fx.symbolic_trace(Root(run))
    for node in module.graph.nodes:
        if node.target == "storage_offset":
            node.meta["example_value"] = 2
    norms = list(module.graph.find_nodes(op="call_function", target=F.batch_norm))
    inputs = module.graph.find_nodes(op="placeholder")
    parameters = {node for node in inputs if node.name in "pq"}
    groups = companions(module, norms, parameters)
    words = ["+".join(str(norms.index(node)) for node in group.members) for group in groups]
    words += [node.name for group in groups for node in group.ahead]
    assert " ".join(words) == expected


def test_what_is_not_marked_stays() -> None:
    module = fx.symbolic_trace(Root(CASES["apart"][0]))
    first, _ = module.graph.find_nodes(op="call_function", target=F.batch_norm)
    (group,) = companions(module, [first], ())
    assert group.members == [first]


def test_which_inputs_are_parameters() -> None:
    graph = fx.Graph()
    x, p, q, odd = (graph.placeholder(name) for name in ("x", "p", "q", "odd"))
    p.meta["tensor_dict"] = {"_dynamo_static_input_type": "unguarded"}
    q.meta["tensor_dict"], x.meta["tensor_dict"] = {"other": 1}, None
    graph.call_function(torch.relu, (odd,)).meta = dict(p.meta)
    assert parameters_of(graph) == {p}


@pytest.mark.parametrize(
    ("args", "users", "expected"),
    [
        ("nxp", 1, "b"),
        ("npp", 1, "ab"),
        ("npx", 1, "a"),
        ("nxx", 1, ""),
        ("nxp", 2, ""),
        ("nx", 1, ""),
        ("nxpp", 1, ""),
        ("nxp", 0, ""),
    ],
)
def test_which_of_a_nested_graph_are(args: str, users: int, expected: str) -> None:
    inner = fx.Graph()
    a, b = inner.placeholder("a"), inner.placeholder("b")
    graph = fx.Graph()
    nodes = {"x": graph.placeholder("x"), "p": graph.placeholder("p"), "n": graph.get_attr("n")}
    for _ in range(users):
        graph.call_function(torch.ops.higher_order.wrap, tuple(nodes[name] for name in args))
    found = parameters_of_nested(inner, nodes["n"], {nodes["p"]})
    assert found == {node for node in (a, b) if node.name in expected}


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3), (6, 3, 2, 2)])
@pytest.mark.parametrize("tracked", ["", "m", "v", "mv"])
def test_what_stands_for_a_call_that_was_not_captured(shape: Any, tracked: str) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    mine, theirs = ([torch.ones(3).double(), torch.ones(3).double() * 2] for _ in range(2))
    weight, bias = torch.randn(3).double(), torch.randn(3).double()

    def run(function: Any, stats: Any) -> torch.Tensor:
        given = [each if name in tracked else None for each, name in zip(stats, "mv", strict=True)]
        return function(x, *given, weight, bias, True, 0.25, 1e-3)

    got = run(batch_norm_to_swap, mine)
    if tracked in ("", "mv") and x.numel() > 3:
        assert torch.allclose(got, run(F.batch_norm, theirs), rtol=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(mine, theirs, strict=True))
    elif tracked == "mv":
        assert torch.allclose(mine[0], 0.75 + 0.25 * x[0])  # of one value: the variance is none
        assert mine[1].tolist() == [1.5] * 3
    else:
        assert mine[0].tolist() == [1.0] * 3
