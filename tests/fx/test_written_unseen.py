"""Writes that no name tells of: by position, by ATen's schema alone, by functions of others."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from fx.body_graphs import Outer, ops
from fx.traced_nets import X, folded, parameters, traced
from support import relative
from torch import fx, nn

from bnfx.passes.fx.facts.spelling import spelling_of
from bnfx.passes.fx.memory.aliasing import mutated_leaves
from bnfx.passes.fx.rewrite import rewrite
from bnfx.passes.refusals import Code
from bnfx.passes.report import Outcome

STATE = torch.zeros_like(X)


@fx.wrap
def state() -> torch.Tensor:
    return STATE


@fx.wrap
def state_of(x: Any) -> Any:
    return STATE


def double(x: Any) -> Any:
    return x.mul_(2)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", STATE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.state


# What writes over a value that others may hold, where a write that is lost is seen.
OF_OTHERS: dict[str, Callable[..., Any]] = {
    "scaled, asked for with nothing": lambda n, x: n.conv(_call(x, state).mul_(n.scale)),
    "scaled, asked for with a value": lambda n, x: n.conv(state_of(x.tanh()).mul_(n.scale)),
    "scaled, of a layer": lambda n, x: n.conv(n.holder(x.tanh()).mul_(n.scale)),
    "cut off, asked for with nothing": lambda n, x: n.conv(torch.relu_(_call(x, state) * n.scale)),
    "cut off, asked for with a value": lambda n, x: n.conv(
        torch.relu_(state_of(x.tanh()) * n.scale)
    ),
    "cut off, of a layer": lambda n, x: n.conv(torch.relu_(n.holder(x.tanh()) * n.scale)),
}


@pytest.mark.parametrize("name", OF_OTHERS)
def test_what_others_give_is_not_written_over(name: str) -> None:
    """A function of a user's may give what it keeps, with each call."""
    net, module = traced(OF_OTHERS[name], holder=Holder())
    result = folded(module).module
    found = []
    with torch.no_grad():
        for run in (net, result):
            STATE.copy_(X)
            found.append((run(X), STATE.clone()))
    assert relative(found[1][0], found[0][0]) < 1e-13
    assert torch.equal(found[1][1], found[0][1])


def _call(x: Any, target: Any, *args: Any) -> Any:
    """A call as Dynamo would write it, with arguments by position."""
    if isinstance(x, torch.Tensor):
        return target(*args)
    return x.tracer.create_proxy("call_function", target, args, {})


def _noisy(n: Any, x: Any) -> Any:
    return torch._C._nn.rrelu_with_noise(x[0, 0, 0, :4], n.bn.bias, 0.1, 0.3, True)


# What writes to a statistic before the BatchNorm.
BEFORE: dict[str, Callable[..., Any]] = {
    "norm": lambda n, x: _call(x, torch.norm, x, 2, (0, 2, 3), False, n.bn.running_mean),
    "normalize": lambda n, x: _call(
        x, F.normalize, x[0, :, 0, 0], 2.0, 0, 1e-12, n.bn.running_mean
    ),
    "tensordot": lambda n, x: _call(
        x, torch.tensordot, x[0, :, 0], x[0, 0, 0], 1, n.bn.running_mean
    ),
    "noise": _noisy,
    "a function of others": lambda n, x: _call(x, double, n.bn.running_mean),
}


def _norm(n: Any, x: Any) -> Any:
    stats = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
    return F.batch_norm(n.conv(x), *stats, False, 0.1, 1e-5)


def _before(name: str) -> Callable[..., Any]:
    return lambda n, x: (BEFORE[name](n, x), _norm(n, x))[1]


@pytest.mark.parametrize("name", BEFORE)
def test_a_statistic_that_is_written(name: str) -> None:
    """It is read when the BatchNorm runs, not before."""
    net, module = traced(_before(name))
    tensors = parameters(module)
    rewritten = rewrite(module, tensors, form="placeholders")
    assert rewritten.report.gives(Code.MUTATED_IN_GRAPH)
    weights = rewritten.evaluate() or []
    before = net.bn.running_mean.normal_().clone()
    with torch.no_grad():
        torch.manual_seed(0)
        got = rewritten.module(*tensors.values(), X, *weights)
        written = net.bn.running_mean.clone()
        net.bn.running_mean.copy_(before)
        torch.manual_seed(0)
        assert relative(got, net(X)) < 1e-13
    assert torch.equal(written, net.bn.running_mean)


def test_an_output_that_is_given_by_position_is_no_constant() -> None:
    """Else the write would happen once, and ahead of the graph."""
    net, module = traced(
        lambda n, x: x * _call(x, torch.norm, n.scale, 2, 2, False, n.out)[..., None] + n.out.sum(),
        out=nn.Parameter(torch.zeros(4, 1, dtype=torch.float64), requires_grad=False),
    )
    result = folded(module).module
    with torch.no_grad():
        net.out.zero_()
        want = net(X)
        net.out.zero_()
        assert relative(result(X), want) < 1e-13
    assert net.out.any()


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)


def _scripted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.mul_(y)


# What is called with x and y, and which of them it may write to.
WRITES: dict[str, tuple[Any, str]] = {
    "torch": (torch.mul, ""),
    "ATen's": (torch.conv2d, ""),
    "TorchScript sorts lists in place, too": (torch.sort, ""),
    "a function in Python": (torch.norm, ""),
    "a private one": (torch._C._nn.gelu, ""),
    "a square root": (math.sqrt, ""),
    "in place": (torch.mul_ if hasattr(torch, "mul_") else torch.relu_, "x"),
    "one that notes what it did": (torch._C._nn.rrelu_with_noise, "xy"),
    "the same, in place": (torch._C._nn.rrelu_with_noise_, "xy"),
    "lists": (torch._fused_adam_, "xy"),
    "an observer": (torch.fused_moving_avg_obs_fake_quant, "xy"),
    "in C, of others": (functools.reduce, "xy"),
    "a function of autograd's, of others": (Scaled.apply, "xy"),
    "among processes": (dist.all_reduce, "xy"),
    "an initialiser": (nn.init.constant, "xy"),
    "of parameters": (nn.utils.vector_to_parameters, "xy"),
    "a method as a function": (torch.Tensor.mul_, "xy"),
}


@pytest.mark.parametrize("name", WRITES)
def test_who_writes_to_what_it_is_given(name: str) -> None:
    target, expected = WRITES[name]
    assert _written(target) == expected


def _written(target: Any) -> str:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output(graph.call_function(target, (x, y)))
    return "".join(sorted(node.name for node in mutated_leaves(graph, nn.Module())))


def test_what_a_script_writes_is_not_known() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        scripted = torch.jit.script(_scripted)
    assert _written(scripted) == "xy"


def test_a_table_that_is_passed_first() -> None:
    """``F.embedding_bag`` takes its arguments in the order of old, too."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output(graph.call_function(F.embedding_bag, (x, y, None, 1.0)))
    assert {node.name for node in mutated_leaves(graph, nn.Module())} == {"x", "y"}


def test_an_output_says_nothing_of_the_first_argument() -> None:
    """``aten.exp.out`` writes elsewhere; it is no ``exp_``."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    assert spelling_of(graph.call_function(torch.ops.aten.exp.out, (x,), {"out": y})) is None
    over = spelling_of(graph.call_function(torch.ops.aten.exp_.default, (x,)))
    assert over is not None
    assert over.functional is torch.ops.aten.exp.default


@pytest.mark.parametrize(("leaf", "writes"), [(False, True), (True, True), (False, False)])
def test_a_statistic_that_a_body_owns_and_writes(leaf: bool, writes: bool) -> None:
    """The graph around it has the same tensor, by another name."""
    inner = fx.Graph()
    y, mean = inner.placeholder("y"), inner.create_node("get_attr", "mean")
    changed = inner.call_method("add_" if writes and not leaf else "add", (mean, 1.0))
    if leaf:
        inner.call_module("norm", (y,))
    inner.output((inner.call_function(torch.add, (y, changed)),))
    holder = nn.Module()
    outer = Outer({}, 1, as_inputs=False)
    holder.register_buffer("mean", outer.root.mean0)
    holder.norm = nn.BatchNorm2d(4).double().train()
    holder.norm.running_mean = outer.root.mean0
    outer.root.body = fx.GraphModule(holder, inner)
    weight, *norm = outer.sets[0]
    first = outer.run(ops.invoke_subgraph, "self.body", "body", outer.x)
    conv = outer.graph.call_function(F.conv2d, (outer.x, weight))
    last = outer.graph.call_function(F.batch_norm, (conv, *norm, False, 0.1, 1e-5))
    conv.meta["val"] = last.meta["val"] = X
    module = outer.module(first, last)
    report = rewrite(module, {}, form="attributes").report
    assert report.gives(Code.MUTATED_IN_GRAPH) == writes
    assert report.count(Outcome.FOLDED) == (not writes)
