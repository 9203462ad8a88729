"""What is a constant of a graph, what is computed from constants alone, and what they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.nodes import call_node
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from bnfx.passes.algebra import Scalar, Source
from bnfx.passes.fx.calls.modules import Attribute
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.parameters.computed import ComputedConstants, is_pure
from bnfx.passes.fx.parameters.scope import Scope
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.fx.weight_bytes import weight_bytes
from bnfx.passes.refusals import Refusal

aten = torch.ops.aten
GRAPH = fx.Graph()
_node = functools.partial(call_node, GRAPH)
X, W, V, N = (GRAPH.placeholder(name) for name in "xwvn")


class Sub(Tensor):
    pass


class Calls(TorchFunctionMode):
    """Notes what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(call)
        return call(*args, **(kwargs or {}))


PURE: list[tuple[fx.Node, bool]] = [
    (_node(torch.mul, X, 2), True),
    (_node("mul", X, 2), True),
    (_node(aten.mul.Tensor, X, W), True),
    (_node(F.relu, X), True),
    (_node(F.conv2d, X, W), True),
    (_node(F.relu, X, inplace=True), False),
    (_node(F.relu, X, True), False),
    (_node("mul_", X, 2), False),
    (_node(torch.relu_, X), False),
    (_node(torch.mul, X, 2, out=W), False),
    (_node(torch.nn.functional.dropout, X), False),
    (_node(torch.rand_like, X), False),
    (_node("elsewhere", X), False),
    # Statistics are another's; what standardises weights keeps none.
    (_node(F.batch_norm, X, None, None, training=True), True),
    (_node(F.batch_norm, X, W, V), False),
    (_node(F.batch_norm, X, None, V), False),
    (_node(F.batch_norm, X, W, None), False),
    (_node(F.batch_norm, X), False),
    (X, False),
]


@pytest.mark.parametrize("at", range(len(PURE)))
def test_what_is_pure(at: int) -> None:
    node, expected = PURE[at]
    assert is_pure(node) is expected


def _constants(*nodes: fx.Node, **more: Any) -> ComputedConstants:
    known = {W: torch.tensor([1.0, -2.0]), V: torch.tensor([3.0, 4.0])}
    found = ComputedConstants(known.get)
    for name, value in more.items():
        setattr(found, name, value)
    for node in nodes:
        assert found.add(node) is (node in found)
    return found


def test_what_is_computed_from_constants_alone() -> None:
    product = _node(torch.mul, W, V)
    twice = _node(torch.mul, product, 2)
    assert twice in _constants(product, twice)
    assert _constants(product, twice).bases(twice) == (W, V)
    assert _constants(product, twice).value(twice).tolist() == [6.0, -16.0]
    assert twice not in _constants(twice)
    assert _node(torch.mul, W, X) not in _constants()
    for node in (
        _node(torch.mul, W, X),
        _node(torch.mul, X, W),
        _node("elsewhere", W),
        _node(torch.mul, 1, 2),
    ):
        assert node not in _constants(node), node
    assert product not in _constants(product, pinned=[product])


def test_what_is_written_over_a_constant() -> None:
    """Where nobody else sees it, it is computed anew."""
    for write in (
        lambda node: _node("mul_", node, 3),
        lambda node: _node("relu_", node),
        lambda node: _node(F.relu, node, inplace=True),
        lambda node: _node(aten.mul_.Tensor, node, V),
    ):
        new = _node(torch.neg, W)
        written = write(new)
        assert written not in _constants(new, written)
        found = _constants(new, written, in_place=[written])
        assert written in found
        value = found.value(written)
        assert value is not found.value(new)
        assert found.value(new).tolist() == [-1.0, 2.0]
    for random in (
        _node("exponential_", _node(torch.neg, W)),
        _node(torch.dropout_, _node(torch.neg, W), 0.5, True),
    ):
        assert random not in _constants(*random.all_input_nodes, random, in_place=[random])


def test_constants_over_other_numbers() -> None:
    product = _node(torch.mul, W, V)
    found = _constants(product)
    found.value(product)
    other = found.again({W: torch.ones(2), V: torch.ones(2)}.get)
    assert other.value(product).tolist() == [1.0, 1.0]


def test_a_constant_takes_no_gradients_and_no_autocast() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    product = _node(torch.matmul, W, W)
    found = ComputedConstants({W: weight}.get)
    found.add(product)
    with torch.autocast("cpu", torch.bfloat16):
        value = found.value(product)
    assert value.dtype == torch.float32
    assert not value.requires_grad


def test_constants_that_read_one_another_twice() -> None:
    """Each is computed once, however many ways lead to it."""
    nodes: list[fx.Node] = []
    last = W
    for _ in range(60):
        one, other = _node(torch.mul, last, 0.5), _node("mul", last, 0.5)
        last = _node(torch.add, one, other)
        nodes += [one, other, last]
    found = _constants(*nodes)
    assert found.bases(last) == (W,)
    assert found.value(last).tolist() == [1.0, -2.0]
    first = _node(torch.neg, W)
    both = _node(torch.add, first, _node(torch.mul, first, 2))
    found, calls = _constants(first, *both.all_input_nodes, both), Calls()
    with calls:
        found.value(both)
    assert calls.seen.count(torch.neg) == 1


class Root(nn.Module):
    """Attributes by name."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.BatchNorm1d(2)
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.view = self.weight.detach()[0]
        self.number, self.whole = 2.0, torch.ones(2, dtype=torch.int64)
        self.sub = torch.ones(2).as_subclass(Sub)
        self.sparse = torch.ones(2).to_sparse()


def _attribute(name: str) -> fx.Node:
    return GRAPH.create_node("get_attr", name)


def _sources(written: Any = (), scope: Scope | None = None, **parameters: Tensor) -> Sources:
    parameters = parameters or {"w": torch.ones(2)}
    scalars, others = {"n": torch.tensor(0.5)}, {"x": torch.ones(2)}
    return Sources(Root(), parameters, scalars, others, written, scope or Scope())


def _resolved(argument: Any, sources: Sources | None = None) -> str:
    """The source's name, or the code of a refusal."""
    found = (sources or _sources()).resolve(argument, "weight")
    return found.code.value if isinstance(found, Refusal) else found.name


def test_sources() -> None:
    for argument, expected in (
        (W, "w"),
        (X, "not-a-parameter"),
        (_attribute("weight"), "self.weight"),
        (_attribute("leaf.bias"), "self.leaf.bias"),
        (Attribute("leaf.bias"), "self.leaf.bias"),
        (Attribute("leaf.nothing"), "not-a-parameter"),
        (_attribute("nothing.bias"), "not-a-parameter"),
        (_attribute("number"), "not-a-parameter"),
        (_attribute("whole"), "unsupported-dtype"),
        (_attribute("sub"), "tensor-subclass"),
        (_attribute("sparse"), "unsupported-dtype"),
        (2.0, "unknown-argument"),
        (None, "unknown-argument"),
        (_node(torch.mul, W, 2), "not-a-parameter"),
    ):
        assert _resolved(argument) == expected, argument
    outer = Source("outer", (2,), "float32")
    assert _sources(scope=Scope({"w": outer})).resolve(W, "weight") is outer
    found = _sources().resolve(_attribute("weight"), "weight")
    assert isinstance(found, Source)
    assert (found.shape, found.dtype) == ((2, 3), "float32")


def test_sources_that_are_written() -> None:
    shared = torch.ones(4)
    for written, expected in (
        ([], "w"),
        ([W], "mutated-in-graph"),
        ([V], "mutated-in-graph"),
        ([X], "w"),
        ([shared[2:]], "mutated-in-graph"),
        ([N], "w"),
    ):
        sources = _sources(written, w=shared[:2], v=shared[2:])
        assert _resolved(W, sources) == expected, written
    root = Root()
    for written in (_attribute("view"), root.leaf.weight):
        sources = Sources(root, {}, {}, {}, [written])
        names = [
            name
            for name in ("weight", "view", "leaf.weight", "leaf.bias")
            if _resolved(Attribute(name), sources) == "mutated-in-graph"
        ]
        assert names == (["leaf.weight"] if isinstance(written, Tensor) else ["weight", "view"])


def test_computed_sources() -> None:
    def resolved(node: fx.Node, w: Tensor) -> str:
        sources = _sources(w=w, v=torch.ones(2))
        assert sources.constants.add(node)
        return _resolved(node, sources)

    product = _node(torch.mul, W, V)
    assert resolved(product, torch.ones(2)) == product.name
    assert resolved(product, torch.ones(2, dtype=torch.int64)) == "unsupported-dtype"
    whole = _node("to", W, torch.int64)
    assert resolved(whole, torch.ones(2)) == "unsupported-dtype"
    split = _node("chunk", W, 2)
    assert resolved(split, torch.ones(2)) == "tensor-subclass"
    told = _node(torch.neg, W)
    told.meta["val"] = torch.empty(2, dtype=torch.bfloat16)
    assert resolved(told, torch.ones(2)) == "unsupported-dtype"
    told.meta["val"] = torch.empty(2)
    assert resolved(told, torch.ones(2)) == told.name


def test_operands() -> None:
    sources = _sources()
    product = _node(torch.mul, W, 2)
    sources.constants.add(product)
    for argument, known in (
        (W, True),
        (X, False),
        (product, True),
        (_node(torch.mul, W, 2), False),
        (_attribute("view"), True),
        (_attribute("number"), False),
        (2.0, False),
        ([W], False),
    ):
        assert (sources.resolve_operand(argument) is not None) is known, argument
    assert sources.resolve_operand(2.0) is None


def test_numbers() -> None:
    given = Source("outer", (), "float64")
    sources = _sources(scope=Scope({"v": given, "w": given}))
    for argument, expected in (
        (2, Scalar(2.0)),
        (0.5, Scalar(0.5)),
        (True, None),
        ("1", None),
        (None, None),
        (N, Source("n", (), "float32")),
        (_node("item", N), Source("n", (), "float32")),
        (V, given),
        (_node("item", V), given),
        (W, None),
        (X, None),
        (_node(torch.mul, N, 2), None),
    ):
        found = sources.resolve_scalar(argument, "eps")
        assert (None if isinstance(found, Refusal) else found) == expected, argument
    assert sources.tensors["n"].item() == 0.5


def test_what_may_share_memory() -> None:
    graph, held = fx.Graph(), torch.ones(4)
    x, w, v, u = (graph.placeholder(name) for name in "xwvu")
    given = {"w": held[:2], "v": held[2:], "u": torch.ones(2)}
    sources = Sources(Root(), given, {}, {}, [])
    graph.call_function(torch.mul, (x, w))
    own, view = graph.create_node("get_attr", "weight"), graph.create_node("get_attr", "view")
    for written, expected in (
        ({w}, [x, w, v]),
        ({u}, [x, u]),
        ({own}, [x, own, view]),
        ({w, u}, [x, w, v, u]),
        ({x}, [x, w, v, u, own, view]),
        ({x, u}, [x, w, v, u, own, view]),
    ):
        assert sources.may_share_memory(written) == expected, written


def _bytes(run: Callable[[Any, Any, Any], Any], **parameters: Tensor) -> int:
    class Model(Root):
        def forward(self, x: Any, w: Any) -> Any:
            return run(self, x, w)

    return weight_bytes(fx.symbolic_trace(Model()), parameters)


def test_bytes_of_weights() -> None:
    w = torch.ones(5, dtype=torch.float16)
    for run, expected in (
        (lambda m, x, w: x, 0),
        (lambda m, x, w: x * w, 10),
        (lambda m, x, w: m.leaf(x), 4 * 4 * 2),
        (lambda m, x, w: m.leaf(m.leaf(x)), 4 * 4 * 2),
        (lambda m, x, w: x * m.weight + m.weight, 4 * 6),
        (lambda m, x, w: x * m.whole, 0),
    ):
        assert _bytes(run, w=w) == expected
    assert _bytes(lambda m, x, w: x * w) == 0
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    slots = [Slot("x", Scalar(1.0), "float64"), Slot("input_1", Scalar(1.0), "float32")]
    assert weight_bytes(module, {}, slots) == 4 * 6 + 4


def test_bytes_of_attributes() -> None:
    """Those that somebody reads."""
    graph, root = fx.Graph(), Root()
    graph.create_node("get_attr", "weight")
    number = graph.create_node("get_attr", "number")
    graph.output(graph.call_function(torch.mul, (number, number)))
    module = fx.GraphModule({"weight": root.weight, "number": root.number}, graph)
    assert weight_bytes(module, {}) == 0
    module.graph.call_function(torch.neg, (module.graph.find_nodes(op="get_attr")[0],))
    assert weight_bytes(module, {}) == 4 * 6
