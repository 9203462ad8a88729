"""A copy that lies in memory otherwise is read as it is: outputs keep the layout of the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fx.traced_nets import X, called, folded, traced
from support import relative
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bnfx.passes.fx.lift import lift
from bnfx.passes.fx.memory.strides import lays_out_anew
from bnfx.passes.fx.metadata import strides_of

LAST = torch.channels_last


def last(x: Any) -> Any:
    return x.contiguous(memory_format=LAST)


def twice(n: Any, v: Any) -> Any:
    return n.bn(v) + v * 3


def turned(x: Any) -> Any:
    return x.transpose(2, 3)


# What runs, and how many convolutions and copies are left.
NETS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "maps of a copy": (lambda n, x: twice(n, last(x)), 0, 1),
    "maps of a clone": (lambda n, x: twice(n, x.clone(memory_format=LAST)), 0, 1),
    "maps of what was moved": (lambda n, x: twice(n, x.to(memory_format=LAST)), 0, 1),
    "maps of two copies": (
        lambda n, x: (n.bn(turned(x).contiguous()) + turned(x).contiguous() * 3).view(2, -1),
        0,
        2,
    ),
    "maps of a copy and the whole": (
        lambda n, x: turned(x).contiguous() * n.scale + turned(x) * 3,
        0,
        1,
    ),
    "maps of a plain copy": (lambda n, x: n.bn(x.clone()) + x * 3, 0, 0),
    "maps of a plain copy of a map and the whole": (
        lambda n, x: (lambda y: (y * n.scale).clone() * 3 + y)(n.conv(x)[:, :, :2]),
        1,
        1,
    ),
    "a norm of what is turned": (lambda n, x: n.bn(turned(x)).view(2, -1), 0, 1),
    "a norm of a part": (lambda n, x: n.bn(x[:, :, :2]).view(2, -1), 0, 1),
    "layers of a copy": (lambda n, x: (lambda v: n.conv(v) + n.other(v))(last(x)), 1, 1),
    "layers of a copy and the whole": (lambda n, x: n.conv(last(x)) + n.other(x), 2, 1),
    "layers of a plain copy": (lambda n, x: n.conv(x.clone()) + n.other(x), 1, 0),
    "a copy of a layer": (lambda n, x: last(n.conv(x)) + n.other(x), 2, 1),
    "a copy beside a layer": (lambda n, x: last(x) + n.conv(x), 1, 1),
    "layers around a copy": (lambda n, x: n.conv(last(n.other(x))), 2, 1),
    "layers around a plain copy": (lambda n, x: n.conv(n.other(x).clone()), 1, 0),
    "a norm behind a copy": (lambda n, x: n.bn(last(n.conv(x))), 1, 1),
    "a norm before a copy": (lambda n, x: n.conv(last(n.bn(x))), 1, 1),
}


@pytest.mark.parametrize("name", NETS)
def test_outputs_lie_as_they_did(name: str) -> None:
    run, layers, copies = NETS[name]
    net, module = traced(run)
    result = folded(module).module
    with torch.no_grad():
        got, want = result(X), net(X)
    assert relative(got, want) < 1e-13
    assert got.stride() == want.stride()
    names = called(result).split()
    assert sum(each in ("conv", "other", "conv2d") for each in names) == layers
    assert sum(each in ("contiguous", "clone", "to") for each in names) == copies


def _copy(op: str, before: Any, after: Any) -> tuple[fx.Node, fx.Node]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_method(op, (x,))
    for node, value in ((x, before), (y, after)):
        if value is not None:
            node.meta["val"] = value
    return y, x


@pytest.mark.parametrize("op", ["clone", "contiguous", "detach"])
def test_a_copy_of_which_nothing_is_known_may_lie_otherwise(op: str) -> None:
    """A view does not."""
    for known in ((X, None), (None, X), (None, None)):
        assert lays_out_anew(*_copy(op, *known)) == (op != "detach")
    assert not lays_out_anew(*_copy(op, X, X))
    assert lays_out_anew(*_copy(op, X, last(X)))


def test_a_copy_by_a_layer_that_nobody_knows() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert not lays_out_anew(graph.create_node("call_module", "drop", (x,)), x)


def test_steps_of_tensors() -> None:
    """One channel tells a convolution, too, whether channels are last."""
    one = X[:, :1].contiguous()
    assert lays_out_anew(*_copy("clone", one, one.clone(memory_format=LAST)))
    assert strides_of(last(X)) == (120, 1, 20, 4)
    assert strides_of(X.to_sparse()) == ()


def test_open_sizes_stay_open() -> None:
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    value = mode.from_tensor(X)
    graph = fx.Graph()
    x = graph.placeholder("x")
    copies = [graph.call_method("clone", (x,)), graph.call_method("contiguous", (x,))]
    graph.output(tuple(copies))
    told = (value, value.clone(), value.contiguous(memory_format=LAST))
    for node, each in zip((x, *copies), told, strict=True):
        node.meta["val"] = each
    before = len(shapes.guards)
    nodes = lift(fx.GraphModule({}, graph), {}, {}, {}).nodes
    anew = [nodes[node].role.movement.contiguous for node in copies]  # type: ignore[union-attr]
    assert anew == [False, True]
    assert len(shapes.guards) == before
