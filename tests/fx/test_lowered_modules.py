"""What a rewritten module is made of: paths of its layers, who may write in place, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, folded, traced
from support import relative
from torch import fx, nn

from bnfx.passes.algebra import Source
from bnfx.passes.fx.lowering.bind import empty_slot, keep_note
from bnfx.passes.fx.lowering.slots import Slot, unused


def twice(n: Any, x: Any) -> Any:
    return n.bn2(n.conv(n.bn(n.conv(x)).tanh()))


def part(n: Any, x: Any) -> Any:
    return n.holder(n.bn(n.holder[0](x)))


def part_twice(n: Any, x: Any) -> Any:
    return n.holder(n.bn2(n.holder[0](n.bn(n.holder[0](x)).tanh())))


def function(n: Any, x: Any) -> Any:
    return n.bn(F.conv2d(x, n.other.weight))


def _holding() -> nn.Module:
    conv = nn.Conv2d(4, 4, 1).double().eval()
    conv.child = nn.Tanh()
    return conv


# What runs, what the model has besides, and the paths of what is called or stored.
PATHS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "its own": (lambda n, x: n.bn(n.conv(x)), {}, "conv"),
    "twice": (twice, {}, "conv conv_1"),
    "a tensor of that name": (
        lambda n, x: torch.add(twice(n, x), n.conv_1),
        {"conv_1": nn.Parameter(X[0])},
        "conv conv_1 conv_2",
    ),
    "a module of that name": (
        lambda n, x: n.conv_1(twice(n, x)),
        {"conv_1": nn.Tanh()},
        "conv conv_1 conv_2",
    ),
    "as it was, too": (lambda n, x: n.bn(n.conv(x)) + n.conv(x).tanh(), {}, "conv conv_1"),
    "read, too": (
        lambda n, x: n.bn(n.conv(x)) + F.conv2d(x, n.conv.weight).tanh(),
        {},
        "conv.weight conv_1",
    ),
    "another is read": (
        lambda n, x: n.bn(n.conv(x)) + F.conv2d(x, n.other.weight).tanh(),
        {},
        "conv other.weight",
    ),
    "part of what is kept": (part, {}, "holder holder_0"),
    "twice such a part": (part_twice, {}, "holder holder_0 holder_0_1"),
    "such a name": (
        lambda n, x: n.holder_0(part(n, x)),
        {"holder_0": nn.Tanh()},
        "holder holder_0 holder_0_1",
    ),
    "part of what is not": (lambda n, x: n.bn(n.holder[0](x)), {}, "holder.0"),
    "part of a part": (
        lambda n, x: n.held.child(n.bn(n.held(x))),
        {"held": _holding()},
        "held held.child",
    ),
    "the name of a method": (
        lambda n, x: n.bn(n.tanh(x)).tanh(),
        {"tanh": nn.Conv2d(4, 4, 1).double().eval()},
        "tanh",
    ),
    "a function": (function, {}, "conv2d_bias conv2d_weight"),
    "a function, such a name": (
        lambda n, x: n.conv2d_bias(n.conv2d_weight(function(n, x))),
        {"conv2d_bias": nn.Tanh(), "conv2d_weight": nn.ReLU()},
        "conv2d_bias conv2d_bias_1 conv2d_weight conv2d_weight_1",
    ),
    "a map": (lambda n, x: n.bn(x).tanh(), {}, "bn_scale bn_shift"),
    "a scale": (lambda n, x: (x * n.scale).tanh(), {}, "scale"),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(name: str) -> None:
    run, more, expected = PATHS[name]
    net, module = traced(run, **more)
    state = {path: value.clone() for path, value in net.state_dict().items()}
    children = dict(net.named_modules())
    result = folded(module).module
    with torch.no_grad():
        assert relative(result(X), net(X)) < 1e-13
    graph: fx.Graph = result.graph
    assert (
        " ".join(sorted({n.target for n in graph.nodes if n.op in ("get_attr", "call_module")}))
        == expected
    )
    assert dict(net.named_modules()) == children
    assert all(torch.equal(value, state[path]) for path, value in net.state_dict().items())


def test_names() -> None:
    assert unused("a", set()) == "a"
    assert unused("a", {"a", "a_1"}) == "a_2"


def test_a_layer_whose_weight_is_a_buffer() -> None:
    conv = nn.Conv2d(4, 4, 1).double().eval()
    weight = conv.weight.detach()
    del conv.weight
    conv.register_buffer("weight", weight)
    net, module = traced(lambda n, x: n.bn(n.conv(x)), conv=conv)
    result = folded(module).module
    with torch.no_grad():
        assert relative(result(X), net(X)) < 1e-13
    assert [name for name, _ in result.named_buffers()] == ["conv.weight"]
    assert [name for name, _ in result.named_parameters()] == ["conv.bias"]


def laid_out(n: Any, x: Any) -> Any:
    return n.conv(torch.relu_(x.transpose(2, 3)[:, :, 1:] * n.scale))


def opaque(n: Any, x: Any) -> Any:
    y = x.tanh()
    return n.conv(torch.relu_(y * n.scale)) + y


def two_sources(n: Any, x: Any) -> Any:
    pair = torch.broadcast_tensors(x.tanh(), x)
    return n.conv(torch.relu_(pair[1] * n.scale))


# What writes over a product whose scale moves on: whether it may write over what is left of it.
WRITES: dict[str, tuple[Callable[..., Any], bool]] = {
    "an input": (lambda n, x: n.conv(torch.relu_(x * n.scale)), False),
    "a view of an input": (lambda n, x: n.conv(torch.relu_(x.transpose(2, 3) * n.scale)), False),
    "an input, laid out": (laid_out, False),
    "a value": (lambda n, x: n.conv(torch.relu_(x.tanh() * n.scale)), True),
    "a view of a value": (lambda n, x: n.conv(torch.relu_(x.tanh()[:, :, 1:] * n.scale)), True),
    "a value with readers": (opaque, False),
    "a value of several": (two_sources, False),
    "a copy of an input": (lambda n, x: n.conv(torch.relu_(x.clone() * n.scale)), True),
    "an operator": (lambda n, x: n.conv(torch.relu_(n.other(x) * n.scale)), True),
    "a sum": (lambda n, x: n.conv(torch.relu_((x.tanh() + x) * n.scale)), True),
}


@pytest.mark.parametrize("name", WRITES)
def test_who_writes_in_place(name: str) -> None:
    run, in_place = WRITES[name]
    net, module = traced(run)
    rewritten = folded(module)
    x = X.clone()
    with torch.no_grad():
        assert relative(rewritten.module(x), net(X)) < 1e-13
    assert torch.equal(x, X)
    targets = [node.target for node in rewritten.module.graph.nodes]
    assert (torch.relu_ in targets) == in_place


def test_a_laid_out_input_that_lies_so_later() -> None:
    net, module = traced(lambda n, x: n.conv(torch.relu_(x * n.scale)))
    for node in module.graph.nodes:
        if "val" in node.meta and node.op != "get_attr":
            node.meta["val"] = node.meta["val"].transpose(2, 3)[:, :, 1:]
    result = folded(module).module
    assert "torch.mul(x, 1)" in result.code
    x = X.clone()
    with torch.no_grad():
        assert relative(result(x), net(X)) < 1e-13
    assert torch.equal(x, X)


def test_what_a_module_keeps() -> None:
    _, module = traced(lambda n, x: {"y": n.bn(n.conv(x))})
    module.meta["note"] = 1
    names: dict[str, str] = {}
    module._param_name_to_source = names  # type: ignore[assignment]
    x, *_ = module.graph.nodes
    x._dynamo_source, x.meta["grapharg"] = "told", 1
    result = folded(module).module
    y = next(iter(result.graph.nodes))
    assert (y._dynamo_source, "grapharg" in y.meta, "grapharg" in x.meta) == ("told", False, True)
    assert (result.meta["note"], result.training) == (1, False)
    assert result._param_name_to_source is names
    assert type(result).__name__ == type(module).__name__
    assert type(result(X)) is dict
    assert result.conv.weight.requires_grad
    assert result.conv is not module.conv
    module.train()
    module.conv.weight.requires_grad_(False)
    module.conv.bias.requires_grad_(False)
    for norm in (module.bn.weight, module.bn.bias):
        norm.requires_grad_(False)
    module.bn.eval()
    result = folded(module).module
    assert result.training
    assert not result.conv.weight.requires_grad
    assert not result.conv.bias.requires_grad


def test_notes_that_there_are() -> None:
    class Noted:
        note = 1

    old, new = Noted(), Noted()
    old.note = 2
    keep_note(old, new, "note")
    keep_note(old, new, "missing")
    assert new.note == 2
    assert not hasattr(new, "missing")


def test_slots_that_are_empty() -> None:
    for is_parameter in (True, False):
        slot = Slot("s", Source("w", (2, 3), "float32"), "float64", is_parameter, True)
        room = empty_slot(slot)
        assert (room.shape, room.dtype) == ((2, 3), torch.float64)
        assert isinstance(room, nn.Parameter) == room.requires_grad == is_parameter
