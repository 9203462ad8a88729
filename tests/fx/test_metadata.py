"""What metadata say of a node: sizes, its place in the user's code, its name in reports."""

from __future__ import annotations

import functools
import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fx.nodes import call_node
from torch import fx, nn

from bnfx.passes.fx.lowering.marks import Mark, inherit, mark, mark_of
from bnfx.passes.fx.metadata import (
    dims_of,
    is_autocast,
    location_of,
    module_path_of,
    name_of,
    readable_path,
    reads_metadata_only,
    reads_rank,
    takes_shape_of,
    value_of,
)
from bnfx.passes.fx.op_names import op_names, shown_kind
from bnfx.passes.fx.sites import affine_sites, names_batch_norm, nested_sites

aten = torch.ops.aten
GRAPH = fx.Graph()
_node = functools.partial(call_node, GRAPH)
X, Y = GRAPH.placeholder("x"), GRAPH.placeholder("y")


def _told(target: Any, *args: Any, value: Any = None, **meta: Any) -> fx.Node:
    node = _node(target, *args)
    node.meta = {**meta, **({} if value is None else {"val": value})}
    return node


class _Open:
    """A size as torch has it under dynamic shapes: maybe it is known by now."""

    def __init__(self, known: int | None) -> None:
        self.node = SimpleNamespace(maybe_as_int=lambda: known)

    def __str__(self) -> str:
        return "s0"


def test_sizes() -> None:
    shape: Any = SimpleNamespace(shape=(2, _Open(None), _Open(3)))
    assert dims_of(shape) == (2, "s0", 3)
    x = torch.empty(2)
    assert value_of(_told("relu", X, value=x)) is x
    assert value_of(_told("relu", X, example_value=x)) is x
    assert value_of(_told("relu", X, value=3, example_value=x)) is x
    assert value_of(_told("relu", X, value=(x, x))) is None


def _assert_metadata(*args: Any, **kwargs: Any) -> fx.Node:
    return _node(aten._assert_tensor_metadata.default, X, *args, **kwargs)


def test_who_reads_no_element() -> None:
    for node in (
        _node("size", X, 0),
        _node("dim", X),
        _node(getattr, X, "shape"),
        _node(aten.sym_size.int, X, 0),
        _assert_metadata(None, None, torch.float32),
        _assert_metadata([2]),
        _assert_metadata(dtype=torch.float32),
        _assert_metadata(stride=None),
    ):
        assert reads_metadata_only(node), node
    for node in (
        _node("relu", X),
        _node("stride", X),
        _node("size", X, Y),
        _node("cumsum", X, 0),
        _assert_metadata(None, [1]),
        _assert_metadata(stride=[1]),
        X,
    ):
        assert not reads_metadata_only(node), node


def test_who_reads_sizes_alone() -> None:
    size = _node("size", X, 0)
    value = torch.empty(2)
    assert takes_shape_of(_node("view_as", X, Y), Y)
    assert takes_shape_of(_node("view", X, size), size)
    assert takes_shape_of(_node("of_nobodys", X, size), size)
    for known in (3, torch.Size([2, 3])):
        told = _told("elsewhere", X, value=known)
        assert takes_shape_of(_node("view", X, told), told)
    assert takes_shape_of(_node("view", X, told := _told("other", X, example_value=3)), told)
    computed = _node(operator.floordiv, _node(operator.mul, size, 2), size)
    assert takes_shape_of(_node("view", X, computed), computed)
    for source in (
        Y,
        _told("relu", X, value=value),
        _node(operator.mul, size, Y),
        _node(torch.neg, size),
    ):
        assert not takes_shape_of(_node("view", X, source), source), source


def test_who_reads_the_rank() -> None:
    assert reads_rank(_node("dim", X))
    assert reads_rank(_node("ndimension", X))
    assert reads_rank(_node(getattr, X, "ndim"))
    for node in (
        _node("size", X),
        _node("dim", X, 1),
        _node("dim", X, out=1),
        _node(getattr, X, "shape"),
        _node(getattr, X, "ndim", 2),
        X,
    ):
        assert not reads_rank(node), node


def test_where_autocast_begins() -> None:
    assert is_autocast(_node(torch.amp.autocast_mode._enter_autocast, "cpu"))
    assert not is_autocast(_node("_enter_autocast", X))
    assert not is_autocast(_node(torch.relu, X))
    assert not is_autocast(GRAPH.placeholder("autocast"))


def _stack(path: str, owner: Any, last: Any = None) -> fx.Node:
    entries = {"0": ("", nn.Module), "1": (path, owner)}
    return _told("relu", X, nn_module_stack=entries if last is None else {**entries, "2": last})


def test_modules_that_run_a_node() -> None:
    leaf = GRAPH.call_module("a.b", (X,))
    assert module_path_of(leaf) == ("a.b", True)
    assert name_of(leaf) == "a.b"
    assert module_path_of(_node("relu", X)) == ("", False)
    assert module_path_of(_told("relu", X, nn_module_stack=None)) == ("", False)
    assert module_path_of(_stack("L['self'].a", nn.ReLU)) == ("a", True)
    assert module_path_of(_stack("L['self'].a", "torch.nn.modules.activation.ReLU")) == ("a", True)
    assert module_path_of(_stack("a", SimpleNamespace)) == ("a", False)
    assert module_path_of(_stack("", nn.ReLU)) == ("", False)
    assert module_path_of(_stack("a", nn.ReLU, last="a")) == ("", False)
    inside = _stack("a", "mine.Block")
    assert name_of(inside) == f"a:{inside.name}"
    plain = _node("relu", X)
    assert name_of(plain) == plain.name
    path = "L['self'].__dict__['_modules']['layer1'][0]._parameters['w']"
    assert readable_path(path) == "layer1.0.w"


def test_lines_of_the_user() -> None:
    own = f'File "{torch.__file__}", line 1, in f\n  x'
    mine, outer = 'File "/me/net.py", line 7, in g\n  y', 'File "/me/main.py", line 3, in h\n  z'
    assert location_of(_told("relu", X, stack_trace=f"{outer}\n{mine}\n{own}")) == "/me/net.py:7"
    assert location_of(_told("relu", X, stack_trace=own)) == ""
    assert location_of(_told("relu", X, stack_trace=None)) == ""
    assert location_of(_node("relu", X)) == ""


def test_names_in_reports() -> None:
    graph = fx.Graph()
    x = graph.placeholder("l_x_")
    y = graph.placeholder("my_y_")
    nodes = [
        graph.call_function(torch.div, (x, 255)),
        graph.call_function(operator.truediv, (x, 255)),
        graph.call_function(aten.cumsum.default, (x, 0)),
        graph.call_function(torch.cumsum, (x, 0)),
        graph.call_method("cumsum", (x, 0)),
        graph.call_module("block.own", (x,)),
        graph.call_module("block.own", (y,)),
    ]
    inside = graph.call_method("relu", (x,))
    inside.meta = {"nn_module_stack": {"0": ("block", "mine.Block")}}
    found = op_names(graph)
    assert [found[node] for node in nodes] == [
        *("div", "div_1", "cumsum", "cumsum_1", "cumsum_2"),
        *("block.own", "block.own"),
    ]
    assert (found[x], found[y]) == ("x", "my_y_")
    assert found[inside] == "block:relu"


class _Own(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def test_what_pictures_show() -> None:
    root: Any = nn.Module()
    root.relu, root.own = nn.ReLU(), _Own()
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    shown = {
        x: "input",
        w: "",
        graph.get_attr("relu"): "",
        graph.call_module("relu", (x,)): "relu",
        graph.call_module("own", (x,)): "_Own",
        graph.call_method("size", (x,)): "",
        graph.call_method("cumsum", (x, 0)): "cumsum",
        graph.call_function(torch.relu, (x,)): "relu",
        graph.output(x): "output",
    }
    sized = graph.call_method("elsewhere", (x,))
    for value in (3, torch.Size([2])):
        sized.meta = {"example_value": value}
        shown[sized] = ""
        assert {node: shown_kind(node, root, ("w",)) for node in shown} == shown


def test_marks() -> None:
    one, other = _node("relu", X), _told("relu", X, custom={"mine": 1}, note=2)
    assert mark_of(one) is None
    for meta in ({"custom": None}, {"custom": "text"}, {"custom": {"bnfx": "else"}}):
        assert mark_of(_told("relu", X, **meta)) is None
    inherit(one, other, is_border=True)
    assert (mark_of(one), one.meta["note"]) == (None, 2)
    mark(one, Mark.MULTIPLY_ADD)
    assert one.meta["custom"] == {"mine": 1, "bnfx": "multiply_add"}
    assert other.meta["custom"] == {"mine": 1}
    inherit(one, other, is_border=False)
    assert mark_of(one) is Mark.MULTIPLY_ADD
    inherit(one, other, is_border=True)
    assert mark_of(one) is Mark.BORDER
    sites = affine_sites(_node("relu", X), "a")
    assert [(site.name, site.kind) for site in sites] == [("a", "affine")]
    assert [site.kind for site in affine_sites(one, "a")] == ["border"]
    mark(one, Mark.REST)
    assert affine_sites(one, "a") == ()


def _root() -> Any:
    root: Any = nn.Module()
    root.norm, root.leaf, root.w = (
        nn.BatchNorm2d(1),
        nn.Sequential(nn.BatchNorm1d(1)),
        torch.ones(1),
    )
    root.body = fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU()))
    return root


@pytest.mark.parametrize(
    ("path", "op", "names"),
    [
        ("body", "call_module", ["1"]),
        ("leaf", "call_module", ["leaf.0"]),
        ("body", "get_attr", ["1"]),
        ("w", "get_attr", []),
    ],
)
def test_norms_inside(path: str, op: str, names: list[str]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    if op == "get_attr":
        node = graph.call_function(torch.relu, (graph.get_attr(path), x))
    else:
        node = graph.call_module(path, (x,))
    assert [site.name for site in nested_sites(node, _root())] == names


def test_what_runs_no_norm_of_another() -> None:
    graph = fx.Graph()
    x, leaf = graph.placeholder("x"), graph.placeholder("leaf")
    norm = graph.call_module("norm", (x,))
    for node in (
        graph.call_function(torch.relu, (norm,)),
        graph.call_function(torch.relu, (leaf,)),
        graph.call_method("leaf", (x,)),
    ):
        assert list(nested_sites(node, _root())) == []


def test_who_is_a_norm() -> None:
    graph = fx.Graph()
    x = graph.placeholder("batch_norm")
    for node, expected in (
        (graph.call_module("norm", (x,)), True),
        (graph.call_module("leaf", (x,)), False),
        (graph.call_function(torch.batch_norm, (x,)), True),
        (graph.call_function(aten.cudnn_batch_norm.default, (x,)), True),
        (graph.call_function(torch.relu, (x,)), False),
        (graph.call_method("batch_norm", (x,)), False),
        (x, False),
    ):
        assert names_batch_norm(node, _root()) is expected
