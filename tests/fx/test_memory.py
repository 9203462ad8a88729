"""What each way to write a call says it writes to, and who may see that."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx.lift import lift
from bnfx.passes.fx.memory.aliasing import module_writes, mutated_leaves, shares_memory_with
from bnfx.passes.fx.memory.writes import Writes, functional_leaf, written_values

aten = torch.ops.aten


class Own(nn.Module):
    """A leaf that nobody knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _patched_inside() -> nn.Module:
    leaf = nn.Conv2d(1, 1, 1)
    leaf._conv_forward = lambda x, *rest: x.mul_(2)  # type: ignore[method-assign]
    return leaf


def _patched() -> nn.Module:
    leaf = nn.ReLU()
    leaf.forward = lambda x: x.mul_(2)  # type: ignore[method-assign]
    return leaf


class Plain(nn.Conv2d):
    """Adds nothing to what it computes."""


@fx.wrap
def unknown(*args: Any, **kwargs: Any) -> Any:
    return args[0]


@fx.wrap
def unknown_(*args: Any) -> Any:
    return args[-1]


class Root(nn.Module):
    """Leaves by name; calls in a function of them and of three inputs are traced."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.own, self.patched, self.relu, self.over = Own(), _patched(), nn.ReLU(), nn.ReLU(True)
        self.tanh = nn.Tanh()  # which has no such flag
        self.inside, self.plain, self.flat = _patched_inside(), Plain(1, 1, 1), nn.Flatten(0)
        self.run = run

    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.run(self, x, y, z)


class Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


def _traced(run: Callable[..., Any]) -> tuple[fx.Graph, nn.Module]:
    root = Root(run)
    return Tracer().trace(root), root


def _leaves(run: Callable[..., Any]) -> str:
    graph, root = _traced(run)
    return "".join(sorted(node.name for node in mutated_leaves(graph, root)))


def _method(x: Any, name: str, *args: Any) -> Any:
    """A call that Python's own syntax would trace as a function."""
    return x.tracer.create_proxy("call_method", name, (x, *args), {})


def _function(x: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
    return x.tracer.create_proxy("call_function", target, (x, *args), kwargs)


WRITES: dict[str, tuple[Callable[..., Any], str]] = {
    "method": (lambda m, x, y, z: x.add_(y), "x"),
    "method, functional": (lambda m, x, y, z: x.add(y), ""),
    "method, augmented": (lambda m, x, y, z: _method(x, "__imul__", y), "x"),
    "method, private": (lambda m, x, y, z: _method(x, "__rsub__", y), ""),
    "method, item": (lambda m, x, y, z: _method(x, "__setitem__", 0, y), "x"),
    "item": (lambda m, x, y, z: _function(x, operator.setitem, 0, y), "x"),
    "augmented": (lambda m, x, y, z: _function(x, operator.imul, y), "x"),
    "augmented, by a keyword": (lambda m, x, y, z: _function(x, operator.iand, y), "x"),
    "no augmented one": (lambda m, x, y, z: _function(x, operator.index), ""),
    "operator": (lambda m, x, y, z: _function(x, operator.mul, y), ""),
    "function": (lambda m, x, y, z: torch.relu_(x), "x"),
    "function of nobody's": (lambda m, x, y, z: unknown(x, y), "xy"),
    "function of nobody's, by its name": (lambda m, x, y, z: unknown_(x, y), "xy"),
    "function of nobody's, asked": (lambda m, x, y, z: unknown(x, y, inplace=True), "xy"),
    "asked": (lambda m, x, y, z: F.relu(x, inplace=True), "x"),
    "asked by position": (lambda m, x, y, z: _function(x, F.relu, True), "x"),
    "function, by name": (lambda m, x, y, z: torch.relu_(input=x), "x"),
    "asked, by name": (lambda m, x, y, z: F.relu(input=x, inplace=True), "x"),
    "of two, by name": (lambda m, x, y, z: torch.clamp_(input=x, min=y), "xy"),
    "not asked, by name": (lambda m, x, y, z: F.relu(input=x, inplace=False), ""),
    "maybe asked": (lambda m, x, y, z: _function(x, F.relu, y), "x"),
    "not asked": (lambda m, x, y, z: F.relu(x, inplace=False), ""),
    "not asked by position": (lambda m, x, y, z: _function(x, F.relu, False), ""),
    "not asked, later": (lambda m, x, y, z: _function(x, F.dropout, 0.5, False), ""),
    "out": (lambda m, x, y, z: torch.add(x, 1, out=y), "y"),
    "two outs": (lambda m, x, y, z: torch.max(x, 0, out=(y, z)), "yz"),
    "method, out": (lambda m, x, y, z: _method_out(x, y), "y"),
    "overload": (lambda m, x, y, z: aten.add_.Tensor(x, y), "x"),
    "overload, by name": (lambda m, x, y, z: aten.add_.Tensor(self=x, other=y), "x"),
    "overload, view": (lambda m, x, y, z: aten.view.default(x, [16]), ""),
    "overload, functional": (lambda m, x, y, z: aten.add.Tensor(x, y), ""),
    "overload, out": (lambda m, x, y, z: aten.add.out(x, y, out=z), "z"),
    "overload, list": (lambda m, x, y, z: aten._foreach_add_.Scalar([x, y], 1.0), "xy"),
    "packet": (lambda m, x, y, z: _function(x, aten.relu_), "x"),
    "packet, mutable": (lambda m, x, y, z: _function(x, aten.set_, y), "xy"),
    "packet without an out": (lambda m, x, y, z: _function(x, aten.conv2d, y), ""),
    "packet, functional": (lambda m, x, y, z: _function(x, aten.tanh_backward, y), "xy"),
    "higher order": (lambda m, x, y, z: _function(x, torch.ops.higher_order.wrap, y), "xy"),
    "statistics": (lambda m, x, y, z: F.batch_norm(x, y, z, training=True), "yz"),
    "no statistics": (lambda m, x, y, z: F.batch_norm(x, y, z, training=False), ""),
    "of instances": (lambda m, x, y, z: F.instance_norm(x, y, z, use_input_stats=True), "yz"),
    "of no instances": (lambda m, x, y, z: F.instance_norm(x, y, z, use_input_stats=False), ""),
    "of instances, with an argument of tomorrow": (
        lambda m, x, y, z: _function(x, F.instance_norm, y, z, later=1),
        "xyz",
    ),
    "native": (
        lambda m, x, y, z: torch.native_batch_norm(x, None, None, y, z, True, 0.1, 1e-5),
        "yz",
    ),
    "statistics alone": (lambda m, x, y, z: torch.batch_norm_update_stats(x, y, z, 0.1), "xyz"),
    "statistics elsewhere": (
        lambda m, x, y, z: torch.batch_norm_backward_reduce(x, y, z, z, None, True, True, True),
        "",
    ),
    "table": (lambda m, x, y, z: F.embedding(x, y), ""),
    "table, scaled down": (lambda m, x, y, z: F.embedding(x, y, max_norm=1.0), "y"),
    "table, by position": (lambda m, x, y, z: F.embedding(x, y, None, 1.0), "y"),
    "table, by name": (lambda m, x, y, z: F.embedding(x, weight=y, max_norm=1.0), "y"),
    "bag": (lambda m, x, y, z: F.embedding_bag(x, y, None, 1.0), "xy"),
    "leaf": (lambda m, x, y, z: m.relu(x), ""),
    "leaf without a flag": (lambda m, x, y, z: m.tanh(x), ""),
    "leaf, in place": (lambda m, x, y, z: m.over(x), "x"),
    "leaf of nobody's": (lambda m, x, y, z: m.own(x), "x"),
    "leaf of a class that adds nothing": (lambda m, x, y, z: m.plain(x), ""),
    "leaf, patched": (lambda m, x, y, z: m.patched(x), "x"),
    "twice": (lambda m, x, y, z: (x.add_(1), x.t().mul_(2)), "x"),
    "leaf, patched inside": (lambda m, x, y, z: m.inside(x), "x"),
    # What is written through, or is not.
    "a view": (lambda m, x, y, z: x.view(-1).add_(1), "x"),
    "a view of a view": (lambda m, x, y, z: x[0].t().add_(1), "x"),
    "a copy": (lambda m, x, y, z: x.clone().add_(1), ""),
    "a new value": (lambda m, x, y, z: torch.relu(x).add_(y), ""),
    "what may be a view": (lambda m, x, y, z: x.contiguous().add_(1), "x"),
    "what was written over by name": (lambda m, x, y, z: torch.relu_(input=x).mul_(2), "x"),
    "what was asked": (lambda m, x, y, z: _function(x, F.relu, True).mul_(2), "x"),
    "what was not asked": (lambda m, x, y, z: _function(x, F.relu, False).mul_(2), ""),
    "what was written over": (lambda m, x, y, z: x.add_(y).mul_(2), "x"),
    "what was written out": (lambda m, x, y, z: torch.add(x, 1, out=y).mul_(2), "xy"),
    "a leaf's value": (lambda m, x, y, z: m.over(x).mul_(2), "x"),
    "a leaf's new value": (lambda m, x, y, z: m.relu(x).mul_(2), ""),
    "a leaf's view": (lambda m, x, y, z: m.flat(x).mul_(2), "x"),
    "its new value": (lambda m, x, y, z: m.tanh(x).mul_(2), ""),
    "half of a list": (lambda m, x, y, z: x.chunk(2)[0].mul_(2), "x"),
    "two ways": (lambda m, x, y, z: torch.where(x, y, z).add_(1), ""),
}


def _method_out(x: Any, y: Any) -> Any:
    return x.tracer.create_proxy("call_function", torch.sub, (x, 1), {"out": y})


@pytest.mark.parametrize("name", WRITES)
def test_which_inputs_are_written(name: str) -> None:
    run, expected = WRITES[name]
    assert _leaves(run) == expected


def _writes(run: Callable[..., Any], dtypes: dict[str, torch.dtype] | None = None) -> Writes:
    """Each value is one of 4 by 4, of some dtype."""
    graph, root = _traced(run)
    for node in graph.nodes:
        dtype = (dtypes or {}).get(node.name, torch.float32)
        node.meta["val"] = torch.empty(4, 4, dtype=dtype, device="meta")
    return written_values(graph, root, lambda leaves: [])


def _pinned(run: Callable[..., Any]) -> str:
    return " ".join(sorted(node.name for node in _writes(run).pinned))


def _in_place(run: Callable[..., Any], dtypes: dict[str, torch.dtype] | None = None) -> str:
    return " ".join(sorted(node.name for node in _writes(run, dtypes).in_place))


def _two(x: Any, run: Callable[[Any], Any]) -> Any:
    """A new value and what is made of it, both given."""
    new = torch.tanh(x)
    return run(new), new


# A value that nobody else sees, written over: as good as a new one.
IN_PLACE: dict[str, tuple[Callable[..., Any], str]] = {
    "method": (lambda m, x, y, z: torch.tanh(x).mul_(y), "mul_"),
    "chain": (lambda m, x, y, z: torch.tanh(x).mul_(y).add_(1), "add_ mul_"),
    "asked": (lambda m, x, y, z: F.relu(torch.tanh(x), inplace=True), "relu"),
    "leaf": (lambda m, x, y, z: m.over(torch.tanh(x)), "over"),
    "of a leaf's value": (lambda m, x, y, z: m.tanh(x).mul_(y), "mul_"),
    "of its shape": (lambda m, x, y, z: torch.tanh(x).t_(), ""),
    "augmented": (lambda m, x, y, z: _function(torch.tanh(x), operator.iadd, y), "iadd"),
    "of a view that is all": (lambda m, x, y, z: torch.tanh(x).t().mul_(y), "mul_"),
    "by name": (lambda m, x, y, z: torch.relu_(input=torch.tanh(x)), ""),
    "the input": (lambda m, x, y, z: x.mul_(y), ""),
    "a view of the input": (lambda m, x, y, z: x.t().mul_(y), ""),
    "what is given": (lambda m, x, y, z: _two(x, lambda new: new.mul_(y)), ""),
    "what is viewed and given": (lambda m, x, y, z: _two(x, lambda new: new.t().mul_(y)), ""),
    "with itself": (lambda m, x, y, z: (lambda new: new.mul_(new))(torch.tanh(x)), "mul_"),
    "one view of two": (
        lambda m, x, y, z: torch.broadcast_tensors(torch.tanh(x), y)[1].mul_(2),
        "",
    ),
    "two views": (lambda m, x, y, z: (lambda n: torch.where(n, n, y).mul_(2))(x.tanh()), "mul_"),
    "of two, one": (lambda m, x, y, z: unknown(torch.tanh(x), y).mul_(2), ""),
    "out": (lambda m, x, y, z: torch.add(x, 1, out=torch.tanh(y)), ""),
    "by an item": (lambda m, x, y, z: _function(torch.tanh(x), operator.setitem, 0, y), ""),
    "no function": (lambda m, x, y, z: torch.tanh(x).exponential_(), ""),
    "leaf of nobody's": (lambda m, x, y, z: m.own(torch.tanh(x)), ""),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_which_writes_are_functions(name: str) -> None:
    run, expected = IN_PLACE[name]
    assert _in_place(run) == expected


def test_what_changes_its_dtype_is_no_function() -> None:
    """``float64 *= float32`` keeps its dtype, and a product of the two would, too, but not
    ``float32 *= float64``.
    """
    wide = {"y": torch.float64}
    assert _in_place(lambda m, x, y, z: torch.tanh(x).mul_(y), wide) == ""


PINNED: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda m, x, y, z: torch.tanh(x).mul_(y), ""),
    "the input": (lambda m, x, y, z: x.add_(1), "add_ x"),
    "a view": (lambda m, x, y, z: x.t().add_(1), "add_ t x"),
    "another's view": (lambda m, x, y, z: (x.add_(1), x.t()), "add_ t x"),
    "one of two": (lambda m, x, y, z: (x.add_(1), y.t()), "add_ x"),
    "no view": (lambda m, x, y, z: (x.add_(1), torch.relu(x)), "add_ x"),
    "what is given": (lambda m, x, y, z: _two(x, lambda new: new.mul_(y)), "mul_ tanh"),
    "a leaf's": (lambda m, x, y, z: m.over(x), "over x"),
    "what was asked, too": (
        lambda m, x, y, z: (_function(x, F.relu, True), x.add_(1)),
        "add_ relu x",
    ),
    "out": (lambda m, x, y, z: torch.add(x, 1, out=y), "add x y"),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_is_pinned(name: str) -> None:
    run, expected = PINNED[name]
    assert _pinned(run) == expected


def test_inputs_that_share_memory() -> None:
    """Who writes to one writes to those that may be the same."""
    graph, root = _traced(lambda m, x, y, z: (x.add_(1), torch.relu(z)))
    nodes = {node.name: node for node in graph.nodes}

    def aliases(written: set[fx.Node]) -> list[fx.Node]:
        assert written == {nodes["x"]}
        return [nodes["z"]]

    assert {nodes["x"], nodes["z"], nodes["add_"]} == written_values(graph, root, aliases).pinned


def test_values_of_which_nothing_is_known() -> None:
    """As in a graph that was traced without inputs."""
    graph, root = _traced(lambda m, x, y, z: torch.tanh(x).mul_(y))
    found = written_values(graph, root, lambda leaves: [])
    assert [node.name for node in found.in_place] == ["mul_"]


def _training(leaf: nn.Module) -> nn.Module:
    return leaf.train()


LEAVES: dict[str, tuple[nn.Module, str]] = {
    "convolution": (nn.Conv2d(2, 2, 1), ""),
    "BatchNorm": (nn.BatchNorm2d(2).eval(), ""),
    "BatchNorm that trains": (_training(nn.BatchNorm2d(2)), "running_mean running_var num"),
    "table": (nn.Embedding(3, 2), ""),
    "table, scaled down": (nn.Embedding(3, 2, max_norm=1.0), "weight"),
    "of nobody's": (type("Mine", (nn.BatchNorm2d,), {"forward": Own.forward})(2).eval(), "*"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_what_leaves_write_by_themselves(name: str) -> None:
    leaf, expected = LEAVES[name]
    root = nn.Module()
    root.leaf = leaf
    graph = fx.Graph()
    graph.output(graph.call_module("leaf", (graph.placeholder("x"),)))
    state = {id(t): n for n, t in [*leaf.named_parameters(), *leaf.named_buffers()]}
    names = {state[id(tensor)] for tensor in module_writes(graph, root)}
    full = expected.replace("num", "num_batches_tracked")
    assert names == (set(state.values()) if expected == "*" else set(full.split()))


def test_functions_of_leaves_that_write() -> None:
    """With the other arguments of the module; ``None`` where none is known."""
    assert functional_leaf(nn.ReLU(True)) == (F.relu, {})
    assert functional_leaf(nn.LeakyReLU(0.2, True)) == (F.leaky_relu, {"negative_slope": 0.2})
    bounds = {"min_val": -2.0, "max_val": 3.0}
    assert functional_leaf(nn.Hardtanh(-2.0, 3.0, inplace=True)) == (F.hardtanh, bounds)
    for leaf in (nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Identity(), nn.Tanh(), Own()):
        assert functional_leaf(leaf) is None


def test_what_others_give_may_lie_in_any_input() -> None:
    """Whatever their names say."""
    graph, root = _traced(lambda m, x, y, z: (unknown_(x, y), torch.relu_(x)))
    shared = [
        [each.name for each in shares_memory_with(node, root)]
        for node in graph.find_nodes(op="call_function", target=unknown_)
    ]
    assert shared == [["x", "y"]]


def test_ops_that_write_to_what_others_see_are_opaque() -> None:
    """A map would cross the op, and the write be lost; one that nobody sees is a function."""
    run = lambda m, x, y, z: (F.relu(x, inplace=True), torch.tanh(y).neg_())  # noqa: E731
    graph, root = _traced(run)
    for node in graph.nodes:
        node.meta["val"] = torch.empty(4, 4)
    lifted = lift(fx.GraphModule(root, graph), {}, {}, {})
    roles = {node.name: type(node.role).__name__ for node in lifted.graph}
    assert (roles["relu"], roles["neg"]) == ("Opaque", "Affine")
