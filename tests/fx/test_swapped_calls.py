"""What stands for BatchNorms in training: what is handed over, what is kept, what is reported."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx.training.synchronise import Swapped, graph_modules, in_training, synchronise
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict

CONSTANTS = {"name": "group", "size": 2}


def stand_in(layers: Any, token: Any, **constants: Any) -> tuple[Any, ...]:
    """Gives the label of each layer."""
    return (*(layer[-1] for layer in layers), token)


def _norm(x: Any, training: Any = True) -> Any:
    return F.batch_norm(x, None, None, None, None, training, 0.1, 1e-5)


def _graph(run: Callable[..., Any], **attributes: Any) -> fx.GraphModule:
    root = nn.Module()
    for name, value in attributes.items():
        setattr(root, name, value)
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    inputs = [fx.Proxy(graph.placeholder(name), tracer) for name in "xy"]
    outputs = run(*inputs)
    graph.output(tuple(each.node for each in outputs))
    return fx.GraphModule(root, graph)


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="call_function", target=stand_in))


def _swap(module: fx.GraphModule, **more: Any) -> Swapped:
    return synchronise(module, more.pop("chosen", lambda node: True), stand_in, CONSTANTS, **more)


@pytest.mark.parametrize(
    ("call", "found", "swapped"),
    [
        (lambda x, y: _norm(x), 1, 1),
        (lambda x, y: _norm(x, False), 0, 0),
        (lambda x, y: _norm(x, y), 1, 0),  # not for certain
        (lambda x, y: torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5), 1, 0),
        (lambda x, y: F.instance_norm(x, use_input_stats=True), 0, 0),
        (lambda x, y: F.conv2d(x, y), 0, 0),
    ],
)
def test_which_are_in_training(call: Any, found: int, swapped: int) -> None:
    module = _graph(lambda x, y: (call(x, y),))
    assert len(list(in_training(module))) == found
    result = _swap(module)
    assert len(result.calls) == len(_calls(result.module)) == swapped
    assert (result.module is module) == (not swapped)


def test_what_is_handed_over() -> None:
    module = _graph(lambda x, y: (_norm(x), _norm(y), torch.relu(y)))
    first, second = module.graph.find_nodes(op="call_function", target=F.batch_norm)
    first.meta = {"stack_trace": "here", "example_value": 1}
    second.kwargs = {}
    second.args = (second.args[0], None, None, first.args[0], None, True, 0.25, 1e-3)
    (x, *_) = module.graph.nodes
    x._dynamo_source = "told"
    module.meta["note"], module._param_name_to_source = 1, {"a": 1}  # type: ignore[assignment]
    module.eval()
    for share in (True, False):
        result = _swap(module, share=share).module
        calls = _calls(result)
        assert len(calls) == (1 if share else 2)
        layers = [layer for call in calls for layer in call.args[0]]  # type: ignore[union-attr]
        assert str(layers[0]) == "(x, None, None, None, None, 0.1, 1e-05, 'batch_norm')"
        assert str(layers[1]) == "(y, None, None, x, None, 0.25, 0.001, 'batch_norm_1')"
        assert all(call.kwargs == CONSTANTS for call in calls)
        assert calls[0].args[1] is None
        assert calls[0].meta == {"stack_trace": "here"}
        node = next(iter(result.graph.nodes))
        assert node._dynamo_source == "told"
        assert result._param_name_to_source == {"a": 1}
        assert (result.meta["note"], result.training) == (1, False)
        outputs = result(*torch.ones(2, 1, 2))
        assert outputs[:2] == ("batch_norm", "batch_norm_1")
        (out,) = result.graph.find_nodes(op="output")
        assert out.args[0][0].meta["example_value"] == 1
        if not share:
            token = calls[1].args[1]
            assert isinstance(token, fx.Node)
            assert (token.target, token.args) == (operator.getitem, (calls[0], 1))
    bare = _graph(lambda x, y: (_norm(x),))
    result = _swap(bare, labels=lambda node: (1, 2)).module
    assert not hasattr(result, "_param_name_to_source")
    assert not hasattr(next(iter(result.graph.nodes)), "_dynamo_source")
    assert str(_calls(result)[0].args[0][0]).endswith("1, 2)")  # type: ignore[index]


def test_only_what_is_chosen_is_swapped() -> None:
    module = _graph(lambda x, y: (_norm(x), _norm(y)))
    result = _swap(module, chosen=lambda node: node.name == "batch_norm_1")
    assert [[site.name for site in call] for call in result.calls] == [["batch_norm_1"]]
    assert len(result.module.graph.find_nodes(op="call_function", target=F.batch_norm)) == 1


def test_nested_graphs_and_what_else_is_named() -> None:
    inner = _graph(lambda x, y: (_norm(x), _norm(y)))

    def run(x: Any, y: Any) -> Any:
        graph = x.node.graph
        body, weight = graph.get_attr("body"), graph.get_attr("w")
        called = graph.call_module("leaf", (x.node,))
        out = graph.call_function(torch.ops.higher_order.wrap, (body, called, weight))
        return (fx.Proxy(out, x.tracer),)

    weight, leaf = nn.Parameter(torch.ones(2)), nn.ReLU()
    module = _graph(run, body=inner, w=weight, leaf=leaf)
    assert list(graph_modules(module)) == [module, module.body]
    result = _swap(module)
    assert len(result.calls) == 1
    assert len(_calls(result.module.body)) == 1
    assert result.module.w is weight
    assert result.module.leaf is leaf
    assert len(_calls(module.body)) == 0


def test_a_call_is_reported_once() -> None:
    sites = [Site(name, "batch_norm", "f:1") for name in ("a", "b", "a", "c")]
    report = GraphReport(tuple(Verdict(site, Outcome.KEPT) for site in sites), ())
    calls = ((Site("a", "batch_norm", "f:1"), Site("d", "batch_norm", "f:1")),)
    module = _graph(lambda x, y: (x,))
    told = Swapped(module, calls).annotate(report).verdicts
    shown = " ".join(f"{each.site.name}:{each.outcome.value}" for each in told)
    assert shown == "a:synchronised d:synchronised b:kept a:kept c:kept"
    elsewhere = ((Site("a", "batch_norm", "g:1"),),)
    told = Swapped(module, elsewhere).annotate(report).verdicts
    assert [each.outcome for each in told] == [Outcome.KEPT] * 4
