"""Single nodes that are written: operators, multiply-adds, functions for what wrote in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, LinearOperator, Source
from bnfx.passes.fx.lowering.bind import with_room
from bnfx.passes.fx.lowering.emit import (
    write_again,
    write_functional,
    write_multiply_add,
    write_operator,
)
from bnfx.passes.fx.lowering.marks import MARK_KEY, Mark, inherit, mark, mark_of
from bnfx.passes.fx.lowering.slots import Slot, Slots
from bnfx.passes.graph import Node, Opaque

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def _weight(*shape: int) -> Source:
    return Source("w", shape, "float64")


def _pads(*sides: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return sides


OPERATORS: dict[str, tuple[LinearOperator, tuple[int, ...]]] = {
    "dense": (Dense(_weight(3, 4), None), (2, 4)),
    "1d": (Conv(_weight(4, 2, 3), None, (2,), _pads((1, 1)), (2,), 2), (2, 4, 9)),
    "2d": (Conv(_weight(4, 2, 3, 2), None, (2, 1), _pads((1, 1), (0, 0)), (1, 2), 2), (2, 4, 7, 8)),
    "uneven": (
        Conv(_weight(4, 2, 3, 2), None, (1, 1), _pads((1, 0), (2, 3)), (1, 1)),
        (2, 2, 6, 5),
    ),
    "3d": (
        Conv(_weight(2, 2, 1, 2, 2), None, (1, 2, 1), _pads((0, 0), (1, 1), (0, 1)), (1, 1, 1)),
        (1, 2, 3, 4, 5),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_compute_what_they_say(name: str) -> None:
    operator, shape = OPERATORS[name]
    weight, data, bias = _random(*operator.weight.shape), _random(*shape), _random(4)
    bias = bias[: weight.shape[0]]
    graph = fx.Graph()
    x, w, b = (graph.placeholder(each) for each in "xwb")
    graph.output(write_operator(graph, operator, x, w, b))
    got = fx.GraphModule({}, graph)(data, weight, bias)
    if isinstance(operator, Conv):
        sides = [side for pair in reversed(operator.padding) for side in pair]
        at = (operator.stride, 0, operator.dilation, operator.groups)
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[data.dim()]
        want = convolve(F.pad(data, sides), weight, bias, *at)
        even = all(before == after for before, after in operator.padding)
        assert len(graph.nodes) == (5 if even else 6)
    else:
        want = data @ weight.t() + bias
    assert torch.allclose(got, want, rtol=1e-14)


def test_transposed_operators() -> None:
    for spatial, run in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), 1):
        sizes = (3, 2, 2)[:spatial]
        weight, data, bias = _random(4, 3, *sizes), _random(2, 4, *(5, 4, 3)[:spatial]), _random(6)
        stride, dilation = (2,) * spatial, (1, 2, 1)[:spatial]
        padding, more = (1, 0, 1)[:spatial], (1, 0, 1)[:spatial]
        tuple((side, side) for side in padding)
        operator = ConvTranspose(
            _weight(*weight.shape),
            None,
            stride,
            _pads(*zip(padding, padding, strict=True)),
            more,
            dilation,
            2,
        )
        graph = fx.Graph()
        x, w, b = (graph.placeholder(each) for each in "xwb")
        graph.output(write_operator(graph, operator, x, w, b))
        got = fx.GraphModule({}, graph)(data, weight, bias)
        want = run(data, weight, bias, stride, padding, more, 2, dilation)
        assert torch.allclose(got, want, rtol=1e-14)
    uneven = ConvTranspose(_weight(4, 3, 3, 1), None, (2, 1), _pads((1, 0), (0, 0)), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="alike on all sides"):
        write_operator(graph, uneven, x, w, b)


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "bias", "expected"),
    [
        (F.linear, "xw", "", "c", "F(y, v, bias=c)"),
        (F.linear, "xw", "", None, "F(y, v)"),
        (F.linear, "xwb", "", "c", "F(y, v, c)"),
        (F.linear, "xwb", "", None, "F(y, v, None)"),
        (F.linear, "x", "wb", "c", "F(y, weight=v, bias=c)"),
        (F.linear, "x", "wb", None, "F(y, weight=v, bias=None)"),
        (F.linear, "", "xw", None, "F(input=y, weight=v)"),
        (F.conv2d, "xw", "", "c", "F(y, v, bias=c)"),
        (aten.linear.default, "xwb", "", "c", "F(y, v, c)"),
    ],
)
def test_calls_are_written_as_they_were(
    target: Any, args: str, kwargs: str, bias: str | None, expected: str
) -> None:
    graph = fx.Graph()
    old = {name: graph.placeholder(name) for name in "xwb"}
    new = {name: graph.placeholder(name) for name in "yvc"}
    names = {"x": "input", "w": "weight", "b": "bias"}
    given = {names[name]: old[name] for name in kwargs}
    call = graph.call_function(target, tuple(old[name] for name in args), given)
    value = None if bias is None else new[bias]
    written = write_again(graph, call, new["y"], new["v"], value)
    shown = [str(each) for each in written.args]
    shown += [f"{name}={each}" for name, each in written.kwargs.items()]
    assert f"F({', '.join(shown)})" == expected
    assert written.target is target


def _multiply_add(
    dtype: str | None, scale: Any, shift: Any, stored: str | None, lays_out: str | None = None
) -> list[fx.Node]:
    graph = fx.Graph()
    x, s = graph.placeholder("x"), graph.placeholder("s")
    origin = graph.placeholder("o")
    origin.meta = {"stack_trace": "there", "val": 1}
    node = Node("n", Opaque(), [], dtype=dtype)
    node.lays_out = lays_out is not None
    slot = None if stored is None else Slot("s", Source("w", (3,), "float32"), stored)
    operands = [s if each == "slot" else each for each in (scale, shift)]
    is_norm = lays_out == "as BatchNorm"
    write_multiply_add(graph, origin, node, x, *operands, Slots(slot, None), is_norm)
    return [each for each in graph.nodes if each.op != "placeholder"]


@pytest.mark.parametrize(
    ("dtype", "scale", "shift", "stored", "lays_out", "expected"),
    [
        ("float32", "slot", 1.0, "float32", None, "mul add"),
        ("float32", "slot", None, "float32", None, "mul"),
        ("float32", None, "slot", "float32", None, "add"),
        ("float32", "slot", None, "float64", None, "mul to"),
        ("float16", "slot", None, "float32", "as BatchNorm", "mul to contiguous"),
        ("float16", "slot", None, "float32", "as arithmetic", "mul to"),
        (None, "slot", None, "float32", None, "mul type_as"),
        (None, 2.0, 0.5, None, None, "mul add"),
        ("float32", 2.0, 0.5, None, None, "mul add"),
        ("float32", None, None, None, "as BatchNorm", "contiguous"),
        ("float32", None, None, None, "as arithmetic", "mul"),
        ("float32", None, None, None, None, ""),
    ],
)
def test_multiply_adds(
    dtype: str | None,
    scale: Any,
    shift: Any,
    stored: str | None,
    lays_out: str | None,
    expected: str,
) -> None:
    nodes = _multiply_add(dtype, scale, shift, stored, lays_out)
    names = [str(getattr(node.target, "__name__", node.target)) for node in nodes]
    assert names == expected.split()
    steps = nodes if scale or shift else []  # what lays out is none of them
    marks = [mark_of(node) for node in steps if node.op == "call_function"]
    assert marks == [Mark.MULTIPLY_ADD, Mark.REST][: len(marks)]
    for node in nodes:
        assert node.meta["stack_trace"] == "there"
        assert "val" not in node.meta
    last = {"to": "dtype", "type_as": "x"}
    for name, node in zip(names, nodes, strict=True):
        if name in last:
            assert str(node.args[-1]) in ("x", f"torch.{dtype}")


def test_marks() -> None:
    graph = fx.Graph()
    written, origin = graph.placeholder("x"), graph.placeholder("y")
    origin.meta = {"val": 1, "custom": {"own": 2}}
    assert mark_of(written) is None
    inherit(written, origin, is_border=True)
    assert written.meta == {"val": 1, "custom": {"own": 2}}
    for border, what in ((False, Mark.MULTIPLY_ADD), (True, Mark.BORDER)):
        mark(written, Mark.MULTIPLY_ADD)
        inherit(written, origin, border)
        assert mark_of(written) is what
        assert written.meta["custom"]["own"] == 2
        assert mark_of(origin) is None  # whose own is not written to
    for odd in ("text", {MARK_KEY: "of nobody's"}, None):
        origin.meta["custom"] = odd
        assert mark_of(origin) is None


class _Leaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.LeakyReLU(0.25, inplace=True)


@pytest.mark.parametrize(
    ("op", "target", "more", "kwargs"),
    [
        ("call_module", "leaf", (), {}),
        ("call_method", "relu_", (), {}),
        ("call_function", torch.relu_, (), {}),
        ("call_function", F.relu, (), {"inplace": True}),
        ("call_function", aten.mul_.Tensor, (2.0,), {}),
        ("call_function", aten.leaky_relu_.default, (), {"negative_slope": 0.5}),
    ],
)
def test_what_wrote_in_place_makes_a_new_value(
    op: str, target: Any, more: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    outputs = []
    x = _random(5)
    for functional in (False, True):
        graph = fx.Graph()
        value = graph.placeholder("x")
        node = graph.create_node(op, target, (value, *more), kwargs)
        node.meta["val"] = 1
        if functional:
            written = write_functional(graph, node, _Leaves(), lambda node: node)
            graph.erase_node(node)
            assert written.meta == {"val": 1}
            node = written
        graph.output(node)
        given = x.clone()
        outputs.append(fx.GraphModule(_Leaves(), graph)(given))
        assert torch.equal(given, x) == functional
    assert torch.equal(*outputs)


def test_a_leaf_with_room() -> None:
    leaf = nn.Conv1d(2, 3, 1, bias=False)
    weight = Slot("a.weight", Source("w", (3, 2, 1), "float32"), "float32", True, True)
    bias = Slot("a.bias", Source("b", (3,), "float32"), "float64", True)
    clone: Any = with_room(leaf, Slots(weight, bias))
    assert clone.weight.requires_grad
    assert not clone.bias.requires_grad
    assert (clone.weight.shape, clone.bias.dtype) == ((3, 2, 1), torch.float64)
    assert leaf.bias is None
    assert clone.weight is not leaf.weight
    kept = leaf.weight.detach()
    del leaf.weight
    leaf.register_buffer("weight", kept)
    clone = with_room(leaf, Slots(weight, None))
    assert [name for name, _ in clone.named_buffers()] == ["weight"]
    assert not clone.weight.requires_grad
    assert clone.weight is not kept
    assert clone.bias is None
