"""A graph whose output is more than tuples, lists and dictionaries ends in ``tree_unflatten``."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torchvision.ops import FrozenBatchNorm2d

import bnfx
from bnfx.passes.fx.memory.aliasing import mutated_leaves, shares_memory_with, written_by

Two = namedtuple("Two", "a b")


class Loud(Two):
    """A named tuple with code of its own."""

    def __new__(cls, a: Any, b: Any) -> Loud:
        return super().__new__(cls, a, b)


class Written(tuple):
    """Written by hand as pytree wants a named tuple, with code that runs on what it gets."""

    _fields = ("a", "b")
    _make = classmethod(lambda cls, values: cls(*values))

    def __new__(cls, a: Any, b: Any) -> Written:
        if isinstance(b, torch.Tensor):
            b.mul_(2)
        return tuple.__new__(cls, (a, b))

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))


Patched = namedtuple("Patched", "a b")
Patched.__init__ = lambda self, a, b: None  # type: ignore[method-assign]


class AsPatched(Patched):
    """Runs what its base does."""


class Plain(Two):
    """Runs no code of its own."""


class Meta(type):
    def __call__(cls, a: Any, b: Any) -> Any:
        return super().__call__(a, b)


class Made(tuple, metaclass=Meta):
    """Its class runs code where it is called."""

    _fields, _make, _asdict = Two._fields, classmethod(Two._make.__func__), Two._asdict
    __new__ = Two.__new__


class Typed(NamedTuple):
    a: Any
    b: Any = None


class Box:
    def __init__(self, a: Any, b: Any) -> None:
        self.parts = [a, b]


pytree.register_pytree_node(
    Box, lambda box: (box.parts, None), lambda parts, _: Box(*parts), serialized_type_name="Box"
)

OWN: dict[str, Callable[[Any, Any], Any]] = {
    "OrderedDict": lambda a, b: OrderedDict(a=a, b=b),
    "defaultdict": lambda a, b: defaultdict(list, a=a, b=b),
    "deque": lambda a, b: deque([a, b]),
    "namedtuple": Two,
    "namedtuple by types": Typed,
    "a subclass that adds nothing": Plain,
    "namedtuple of names that are none": namedtuple("Three", "_a b", rename=True),
    "numbers for keys": lambda a, b: {0: a, 1: b},
    "nested": lambda a, b: OrderedDict(a=[a, (b, None)], b={"c": deque([b])}),
}
OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "a class": Box,
    "a subclass": Loud,
    "a tuple with names": Written,
    "a named tuple with an initialiser": Patched,
    "a subclass of one": AsPatched,
    "a named tuple of a class of classes": Made,
    "a class inside": lambda a, b: {0: [Box(a, b)]},
}


class Net(nn.Module):
    def __init__(self, make: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4)
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        y = self.norm(self.conv(x))
        return self.make(y, y.sum(1))


def unflattening(make: Callable[[Any, Any], Any]) -> tuple[fx.GraphModule, fx.Node]:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    leaves, spec = pytree.tree_flatten(make(x, y))
    node = graph.call_function(pytree.tree_unflatten, (leaves, graph.get_attr("spec")))
    graph.output(node)
    root = nn.Module()
    root.spec = spec
    return fx.GraphModule(root, graph), node


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_pythons_containers_cost_no_fold(make: Callable[[Any, Any], Any]) -> None:
    model = Net(make).double().eval()
    for buffer in model.norm.buffers():
        buffer.uniform_(0.5, 2).mul_(-1 if buffer is model.norm.weight else 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    folded = bnfx.fold(model, x, keep="graph")
    assert bnfx.explain(folded, x).verdicts == ()
    assert type(folded(x)) is type(model(x))
    torch.testing.assert_close(pytree.tree_leaves(folded(x)), pytree.tree_leaves(model(x)))


def test_an_ordered_dict_that_a_trace_makes_only_holds() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    inner = graph.call_function(OrderedDict, ([("b", y)],))
    node = graph.call_function(OrderedDict, ([("a", x), ("b", [inner])],))
    other = graph.call_function(OrderedDict, (), {"a": x})
    empty = graph.call_function(OrderedDict)
    graph.output((node, other, empty))
    module = fx.GraphModule(nn.Module(), graph)
    assert [list(written_by(n, module)) for n in (inner, node)] == [[], []]
    assert list(shares_memory_with(node, module)) == [x, inner]
    assert list(shares_memory_with(inner, module)) == [y]
    assert list(written_by(other, module)) == [x]  # not as traces write it
    assert list(written_by(empty, module)) == []


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_pythons_containers_only_hold(make: Callable[[Any, Any], Any]) -> None:
    module, node = unflattening(make)
    assert list(written_by(node, module)) == []
    assert {part.name for part in shares_memory_with(node, module)} == {"x", "y"}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_classes_may_write_to_what_they_hold(make: Callable[[Any, Any], Any]) -> None:
    module, node = unflattening(make)
    assert {part.name for part in written_by(node, module)} == {"x", "y"}
    assert {leaf.name for leaf in mutated_leaves(module.graph, module)} == {"x", "y"}


@pytest.mark.parametrize("order", ["spec first", "spec given", "by name", "values in a node"])
def test_other_ways_to_call_it(order: str) -> None:
    """All may write to all, where it is not written as torch.export writes it."""
    graph = fx.Graph()
    x, y, spec = graph.placeholder("x"), graph.placeholder("y"), graph.placeholder("spec")
    args, kwargs = {
        "spec first": ((spec, [x, y]), {}),
        "spec given": (([x, y], spec), {}),
        "by name": (([x, y],), {"treespec": spec}),
        "values in a node": ((x, spec), {}),
    }[order]
    node = graph.call_function(pytree.tree_unflatten, args, kwargs)
    graph.output(node)
    root = nn.Module()
    root.spec = pytree.tree_structure(Two(1, 2))  # of the name of the input, and another
    values = {"x"} if order == "values in a node" else {"x", "y"}
    assert values <= {part.name for part in written_by(node, root)}
    assert values <= {part.name for part in shares_memory_with(node, root)}


@pytest.mark.parametrize("spec", [None, "missing", 3])
def test_a_specification_that_is_none(spec: object) -> None:
    module, node = unflattening(Two)
    if spec == "missing":
        del module.spec
    else:
        module.spec = spec
    assert {part.name for part in written_by(node, module)} == {"x", "y"}
