"""What each node of a graph is taken for, with what is known of its value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, traced
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bnfx.passes.fx.lift import lift
from bnfx.passes.graph import Move, Node, Opaque


class Loud(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Longer(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


def _proxy(x: Any, target: Any, *args: Any, op: str = "call_function", **kwargs: Any) -> Any:
    return x.tracer.create_proxy(op, target, args, kwargs)


def _inner() -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).double().eval())


def _last(run: Callable[..., Any], change: Callable[..., None] | None = None, **more: Any) -> Any:
    """The lifted graph, and the node of its output."""
    _net, module = traced(run, **more)
    if change is not None:
        change(module)
    lifted = lift(module, {}, {}, {})
    (output,) = module.graph.find_nodes(op="output")
    return lifted, lifted.nodes[output.all_input_nodes[0]]


def _shown(node: Node) -> str:
    """Its role, its inputs, the kinds of its sites, and why it is no better."""
    role = type(node.role).__name__
    if isinstance(node.role, Opaque):
        role += "" if node.role.reads_data else " sizes"
    inputs = ",".join(each.origin.name for each in node.inputs)
    sites = ",".join(site.kind for site in node.sites)
    codes = ",".join(refusal.code.name.lower() for refusal in node.refusals)
    sized = ",".join(each.name for each in node.shape_inputs)
    parts = (sites, codes, sized, "laid out" if node.lays_out else "")
    return " ".join((f"{role}({inputs})", *filter(None, parts)))


def _norm(n: Any, x: Any, training: bool = False) -> Any:
    stats = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
    return F.batch_norm(x, *stats, training, 0.1, 1e-5)


NODES: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "a layer": (lambda n, x: n.conv(x), {}, "Linear(x)"),
    "a norm": (lambda n, x: n.bn(x), {}, "Affine(x) batch_norm"),
    "a norm as a function": (_norm, {}, "Affine(x) batch_norm"),
    "in training": (
        lambda n, x: _norm(n, x, True),
        {},
        "Opaque(x,p,p,p,p) batch_norm training_mode",
    ),
    "a layer of no parameters": (
        lambda n, x: F.conv2d(x, x[:, :, :1, :1]),
        {},
        "Opaque(x,getitem) not_a_parameter",
    ),
    "a norm that adds behaviour": (
        lambda n, x: n.bn(x),
        {"bn": Loud(4).double()},
        "Opaque(x) batch_norm subclass",
    ),
    "a layer that adds behaviour": (
        lambda n, x: n.conv(x),
        {"conv": Longer(4, 4, 1).double()},
        "Opaque(x) subclass",
    ),
    "a norm inside": (
        lambda n, x: n.inner(x),
        {"inner": _inner()},
        "Opaque(x) batch_norm nested_graph",
    ),
    "nothing known": (lambda n, x: torch.cumsum(x, 1), {}, "Opaque(x)"),
    "a movement": (lambda n, x: x.transpose(1, 2), {}, "Move(x)"),
    "a movement of a view": (lambda n, x: x.tanh().flatten(2), {}, "Move(tanh)"),
    "written over": (lambda n, x: x.relu_(), {}, "Opaque(x)"),
    "written over, alone": (lambda n, x: x.tanh().relu_(), {}, "Move(tanh)"),
    "arithmetic": (lambda n, x: x * 2, {}, "Affine(x) affine"),
    "arithmetic in another order": (
        lambda n, x: x[:, :, 1:].transpose(2, 3) * 2,
        {},
        "Affine(transpose) affine laid out",
    ),
    "arithmetic, turned": (lambda n, x: x.transpose(2, 3) * 2, {}, "Affine(transpose) affine"),
    "a sum": (lambda n, x: x + x.tanh(), {}, "Add(x,tanh)"),
    "a sum, turned": (
        lambda n, x: x.transpose(2, 3) + x.tanh().transpose(2, 3),
        {},
        "Add(transpose,transpose_1) laid out",
    ),
    "a product, turned": (
        lambda n, x: x.transpose(2, 3) * x.tanh().transpose(2, 3),
        {},
        "Product(transpose,transpose_1)",
    ),
    "a product": (lambda n, x: x * x.tanh(), {}, "Product(x,tanh)"),
    "a part of a split": (lambda n, x: x.split(2, 1)[0], {}, "Move(x)"),
    "several": (lambda n, x: torch.cat([x, x.tanh()], 1), {}, "Concat(x,tanh)"),
    "of two dtypes": (lambda n, x: torch.cat([x, x.float()], 1), {}, "Opaque(x,float_1)"),
    "to another dtype": (lambda n, x: x.float().relu(), {}, "Move(float_1)"),
    "in the shape of another": (
        lambda n, x: x.flatten(2).view_as(x.tanh()),
        {},
        "Move(flatten) tanh",
    ),
    "in given sizes": (
        lambda n, x: x.view(x.size(0), 4, 30),
        {},
        "Move(x) size",
    ),
    "squeezed": (lambda n, x: x[:, :1].squeeze(1), {}, "Move(getitem)"),
    "squeezed, whichever": (lambda n, x: x[:, :1].squeeze(), {}, "Move(getitem)"),
    "sizes": (lambda n, x: x.size(0), {}, "Opaque sizes(x)"),
}


@pytest.mark.parametrize("name", NODES)
def test_what_a_node_is(name: str) -> None:
    run, more, expected = NODES[name]
    for module in more.values():
        module.eval()
    lifted, node = _last(run, **more)
    told = _shown(node)
    for each in ("bn.running_mean", "bn.running_var", "bn.weight", "bn.bias"):
        told = told.replace(each.replace(".", "_"), "p")
    assert told == expected
    assert (node in lifted.norms) == ("batch_norm" in expected and "Affine" in expected)
    value = node.origin.meta.get("val")
    if value is not None:
        assert (node.rank, node.shape) == (value.dim(), tuple(value.shape))


@pytest.mark.parametrize("reads", [True, False])
def test_who_reads_a_split(reads: bool) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    parts = graph.call_method("split", (x, 2, 1))
    first = graph.call_function(operator.getitem, (parts, 0))
    x.meta["val"], parts.meta["val"] = X, X.split(2, 1)
    graph.output((first, parts) if reads else first)
    node = lift(fx.GraphModule({}, graph), {}, {}, {}).nodes[parts]
    assert isinstance(node.role, Opaque)
    assert node.role.reads_data == reads


def _forget(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        node.meta.pop("val", None)


@pytest.mark.parametrize(
    ("norm", "rank"), [(nn.BatchNorm1d(4), None), (nn.BatchNorm2d(4), 4), (nn.BatchNorm3d(4), 5)]
)
def test_a_rank_that_a_layer_tells(norm: nn.Module, rank: int | None) -> None:
    net, _module = traced(lambda n, x: n.conv(x))
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("bn", (x,)))
    net.bn = norm.double().eval()
    lifted = lift(fx.GraphModule(net, graph), {}, {}, {})
    source, node, _ = lifted.graph
    assert (source.rank, node.rank) == (rank, rank)
    x.meta["val"] = torch.ones(2, 4)
    lifted = lift(fx.GraphModule(net, graph), {}, {}, {})
    source, node, _ = lifted.graph
    assert (source.rank, node.rank) == (2, rank)
    _, node = _last(lambda n, x: n.conv(x), _forget)
    assert node.rank is None
    net.bn.local_class = nn.BatchNorm2d  # of a converted one
    x.meta.clear()
    assert lift(fx.GraphModule(net, graph), {}, {}, {}).nodes[x].rank == 4


def test_what_is_known_without_values() -> None:
    _, node = _last(lambda n, x: x + x.tanh(), _forget)
    assert _shown(node) == "Opaque(x,tanh)"
    _, node = _last(lambda n, x: x.tanh().dim(), _forget)
    assert not node.role.reads_rank
    _, node = _last(lambda n, x: x.tanh().dim())
    assert node.role.reads_rank
    _, node = _last(lambda n, x: x.squeeze(), _forget)
    assert _shown(node).startswith("Opaque")


def test_stretches_of_autocast() -> None:
    def run(n: Any, x: Any) -> Any:
        modes = torch.amp.autocast_mode
        enter, leave = modes._enter_autocast, modes._exit_autocast
        mode = _proxy(x, enter, "cpu", None, True, None)
        y = n.conv(x)
        _proxy(x, leave, mode)
        return n.other(y)

    lifted, last = _last(run)
    regions = {node.name: node.region for node in lifted.graph}
    assert (regions["x"], regions["conv"], last.region) == (0, 1, 2)


def test_where_gradients_stop() -> None:
    for known in (True, False):
        for flows in ((True, False), (True, True), (False, False), (False, True)):
            graph = fx.Graph()
            x = graph.placeholder("x")
            y = graph.call_method("detach", (x,))
            graph.output(y)
            for node, flow in zip((x, y), flows, strict=True):
                if known or node is y:
                    node.meta["val"] = X.clone().requires_grad_(flow)
            node = lift(fx.GraphModule({}, graph), {}, {}, {}).nodes[y]
            stops = known and flows == (True, False)
            if known:
                assert isinstance(node.role, Opaque) == stops


def test_constants_and_what_is_pinned() -> None:
    def run(n: Any, x: Any) -> Any:
        return torch.mul(n.bn.weight.exp()[:, None, None], x.add_(1))

    lifted, last = _last(run)
    pinned = {node.name for node in lifted.graph if node.pinned}
    assert "x" in pinned
    assert last.op == "mul"


# An op that does not run as it stands here, its arguments, and what it is taken for.
BARE: dict[str, tuple[Any, str, str]] = {
    "native": (torch.native_batch_norm, "xpppp010", "batch_norm unsupported_form"),
    "a form that is not read": (torch.batch_norm_elemt, "xppxx1", "batch_norm unsupported_form"),
    "a layer of a number": (F.conv2d, "1x", "Opaque(x) unsupported_form"),
    "several, of none": (torch.cat, "", "Opaque()"),
    "several, and a number": (torch.cat, "x1", "Opaque(x)"),
    "sizes that are computed": ("view", "xs", "Opaque(x,s)"),
    "sizes": ("view", "xn", "Move(x) size"),
}


@pytest.mark.parametrize("name", BARE)
def test_what_a_bare_node_is(name: str) -> None:
    target, given, expected = BARE[name]
    graph = fx.Graph()
    x, p = graph.placeholder("x"), graph.placeholder("p")
    nodes = {"x": x, "p": p, "0": False, "1": 1.0}
    nodes["s"] = graph.create_node("call_method", "item", (x,), name="s")
    nodes["n"] = graph.create_node("call_method", "size", (x, 0), name="n")
    args = tuple(nodes[each] for each in given)
    args = (list(args), 1) if target is torch.cat else args
    op = "call_method" if isinstance(target, str) else "call_function"
    node = graph.create_node(op, target, args)
    graph.output(node)
    x.meta["val"] = node.meta["val"] = X
    lifted = lift(fx.GraphModule({}, graph), {"p": torch.ones(4).double()}, {}, {})
    assert _shown(lifted.nodes[node]).endswith(expected)


def test_open_sizes_are_not_squeezed() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    part = X[:, :1]
    for value, role in ((part, Move), (mode.from_tensor(part), Opaque)):
        graph = fx.Graph()
        x = graph.placeholder("x")
        squeezed = graph.call_method("squeeze", (x,))
        turned = graph.call_method("transpose", (x, 1, 2))
        graph.output((squeezed, turned))
        for node, told in (
            (x, value),
            (squeezed, value.squeeze()),
            (turned, value.transpose(1, 2)),
        ):
            node.meta["val"] = told
        nodes = lift(fx.GraphModule({}, graph), {}, {}, {}).nodes
        assert isinstance(nodes[squeezed].role, role)
        assert isinstance(nodes[turned].role, Move)


def test_gradients_of_one_of_several_stop() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    node = graph.call_function(torch.cat, ((x, y), 1))
    graph.output(node)
    x.meta["val"], y.meta["val"] = X.clone().requires_grad_(), X
    node.meta["val"] = torch.cat((X, X), 1)
    assert isinstance(lift(fx.GraphModule({}, graph), {}, {}, {}).nodes[node].role, Opaque)
