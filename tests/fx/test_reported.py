"""What reports say of a graph: which nodes are BatchNorms, their numbers, and that all stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, parameters, traced
from torch import fx, nn

from bnfx.passes.crossing import Chain, Permute
from bnfx.passes.details import NormNumbers
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import rewrite, rewrite_traced
from bnfx.passes.fx.sites import names_batch_norm
from bnfx.passes.lifting.shuffles import depth_to_space, space_to_depth
from bnfx.passes.refusals import Code
from bnfx.passes.rules.ordered import RULES


def test_only_calls_are_batch_norms() -> None:
    graph = fx.Graph()
    x = graph.placeholder("batch_norm")
    stats = (graph.placeholder("mean"), graph.placeholder("var"))
    graph.call_method("batch_norm", (x,))
    graph.output(graph.call_function(F.batch_norm, (x, *stats)))
    named = [node.op for node in graph.nodes if names_batch_norm(node, fx.GraphModule({}, graph))]
    assert named == ["call_function"]
    read = graph.create_node("get_attr", "batch_norm")
    assert not names_batch_norm(read, fx.GraphModule({}, fx.Graph()))


@pytest.mark.parametrize("affine", [True, False])
def test_the_numbers_of_a_batch_norm(affine: bool) -> None:
    bn = nn.BatchNorm2d(4, eps=0.5, momentum=0.25, affine=affine)
    net, module = traced(lambda n, x: n.norm(n.conv(x)), norm=bn.double().eval())
    norm: Any = net.norm
    norm.running_var.copy_(torch.tensor([0.5, 3.5, 1.5, 8.5]))
    if affine:
        norm.weight.data.copy_(torch.tensor([2.0, -3.0, 0.0, 1.0]))
    report = rewrite(module, {}, form="attributes", detailed=True).report
    assert report.details is not None
    (found,) = report.details.norms.values()
    gamma = (2.0, -3.0, 0.0, 1.0) if affine else ()
    scale = [g / (v + 0.5) ** 0.5 for g, v in zip(gamma or (1,) * 4, found.variance, strict=True)]
    assert found == NormNumbers(
        eps=0.5,
        momentum=0.25,
        scale=pytest.approx(scale),
        variance=(0.5, 3.5, 1.5, 8.5),
        gamma=gamma,
    )


@pytest.mark.parametrize("form", ["attributes", "placeholders", "traced"])
def test_a_graph_of_which_nothing_is_folded_is_itself(form: Any) -> None:
    _, module = traced(lambda n, x: n.bn(n.conv(x).tanh().cumsum(1)).tanh())
    rewritten = rewrite(module, {}, form=form, rules=())
    assert rewritten.module is module
    assert (rewritten.slots, rewritten.recipe) == ((), None)
    assert (rewritten.report.bytes_before, rewritten.report.bytes_after) == (0, 0)


def test_weights_that_will_be_trained_are_not_stored_in_half_precision() -> None:
    def run(n: Any, x: Any) -> Any:
        stats = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
        return F.batch_norm(F.conv2d(x, n.conv.weight), *stats, False, 0.1, 1e-5)

    for dtype, refused in ((torch.float16, True), (torch.float32, False)):
        net, module = traced(run)
        tensors = parameters(module)
        for node in module.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = node.meta["val"].to(dtype)
        tensors = {name: value.detach().to(dtype) for name, value in tensors.items()}
        inputs = GraphInputs({}, tensors, {}, {"x": X.to(dtype)})
        report = rewrite_traced(module, inputs, RULES, True).report
        assert report.gives(Code.OVERFLOW) == refused
        del net


def _largest(weight: torch.Tensor) -> tuple[float, ...]:
    return tuple(weight.abs().flatten(1).amax(1).tolist())


def test_the_weights_of_what_carries_a_fold_are_told() -> None:
    """By channel, of what is left in the end; not of other layers."""
    _, module = traced(lambda n, x: n.other(n.bn(n.conv(x)).tanh()))
    rewritten = rewrite(module, {}, form="attributes", detailed=True)
    details = rewritten.report.details
    assert details is not None
    assert all(op.largest == op.mean == () for op in details.before)
    folded, other = (op for op in details.after if op.kind == "conv2d")
    (weight, _bias) = rewritten.evaluate() or ()
    assert folded.largest == pytest.approx(_largest(weight))
    assert folded.mean == pytest.approx(tuple(weight.abs().flatten(1).mean(1).tolist()))
    assert (other.largest, other.mean) == ((), ())


def test_a_layer_without_weights_has_no_largest_one() -> None:
    empty = nn.Conv2d(1, 4, 1).double().eval()
    empty.weight = nn.Parameter(empty.weight[:, :0])
    net, _ = traced(lambda n, x: n.conv(x))
    net.empty = empty
    graph = fx.Graph()
    x = graph.placeholder("x")
    conv = graph.call_module("empty", (x,))
    norm = graph.call_module("bn", (conv,))
    graph.output(norm)
    x.meta["val"] = X[:, :0]
    for node in (conv, norm):
        node.meta["val"] = X
    rewritten = rewrite(fx.GraphModule(net, graph), {}, form="attributes", detailed=True)
    assert rewritten.report.details is not None
    assert all(op.largest == () for op in rewritten.report.details.after)


def _moved(chain: Chain, x: torch.Tensor) -> torch.Tensor:
    for movement, dims in chain.steps:
        x = x.permute(movement.order) if isinstance(movement, Permute) else x
        x = x.reshape(dims)  # type: ignore[arg-type]
    return x


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("columns_first", [False, True])
def test_which_place_goes_where(columns_first: bool, last: bool) -> None:
    """Channel ``c``, row ``i`` and column ``j`` of a block, by either order, in either layout."""
    wide = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)  # n, c, h i, w j
    blocks = wide.reshape(2, 3, 2, 2, 3, 2)  # n, c, h, i, w, j
    order = (0, 1, 3, 5, 2, 4) if columns_first else (0, 3, 5, 1, 2, 4)
    deep = blocks.permute(order).reshape(2, 12, 2, 3)
    if last:
        wide, deep = wide.permute(0, 2, 3, 1), deep.permute(0, 2, 3, 1)
    for read, before, after in ((depth_to_space, deep, wide), (space_to_depth, wide, deep)):
        chain = read(tuple(before.shape), tuple(after.shape), 2, columns_first, last)
        assert chain is not None
        assert torch.equal(_moved(chain, before), after)
