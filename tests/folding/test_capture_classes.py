"""What a model asks Python of a tensor: its class, attributes that it was given; and the dtype that
is the default. A graph is for what the example's were.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn

import bnfx


class Own(torch.Tensor):
    def new_empty(self, *size: Any, **options: Any) -> Any:
        """Without it, there are no deep copies of a subclass."""
        return super().new_empty(*size, **options).as_subclass(Own)


class Marked(torch.Tensor):
    mask = 2


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def marked() -> torch.Tensor:
    x: Any = X.clone()
    x.mask = 2
    return x


class Net(nn.Module):
    def __init__(self, factor: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) * self.factor(x)


def net(factor: Callable[[Any], Any]) -> nn.Module:
    return randomise(Net(factor).double()).eval()


def matches(x: Any) -> int:
    match x:
        case Own():
            return 2
        case _:
            return 3


@functools.singledispatch
def dispatched(x: Any) -> int:
    return 3


@dispatched.register
def _(x: Own) -> int:
    return 2


def tries(x: Any) -> int:
    try:
        return int(x.mask)
    except AttributeError:
        return 3


KIND = type
CLASSES: dict[str, Callable[[Any], Any]] = {
    "isinstance": lambda x: 2 if isinstance(x, Own) else 3,
    "of a result": lambda x: 2 if isinstance((x * 2).relu(), Own) else 3,
    "of several": lambda x: 2 if isinstance(x, (int, Own)) else 3,
    "__class__": lambda x: 2 if x.__class__ is Own else 3,
    "type": lambda x: 2 if type(x) is Own else 3,
    "type by another name": lambda x: 2 if KIND(x) is Own else 3,
    "match": matches,
    "singledispatch": dispatched,
}
ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    "hasattr": lambda x: 2 if hasattr(x, "mask") else 3,
    "getattr": lambda x: getattr(x, "mask", 3),
    "try": tries,
}


def _read_again(graph: nn.Module) -> list[Any]:
    return [graph, pickle.loads(pickle.dumps(graph))]


def _tells_apart(factor: Callable[[Any], Any], other: Any, said: str) -> None:
    """The model answers ``other`` otherwise, so that the graph refuses it."""
    model = net(factor)
    assert not torch.equal(model(other).as_subclass(torch.Tensor), model(X))
    for graph in _read_again(bnfx.fold(model, X, keep="graph")):
        assert relative(graph(X), model(X)) < 1e-12
        with pytest.raises(AssertionError, match=said):
            graph(other)


@pytest.mark.parametrize("factor", CLASSES.values(), ids=CLASSES.keys())
def test_the_class_of_a_tensor(factor: Callable[[Any], Any]) -> None:
    _tells_apart(factor, X.as_subclass(Own), "x of a class of torch's")


@pytest.mark.parametrize("factor", ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
@pytest.mark.parametrize("other", [marked(), X.as_subclass(Marked)], ids=["set", "class"])
def test_an_attribute_of_a_tensor(factor: Callable[[Any], Any], other: Any) -> None:
    _tells_apart(factor, other, "x without an attribute mask")


@pytest.mark.parametrize("factor", ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
def test_an_attribute_of_the_example(factor: Callable[[Any], Any]) -> None:
    with pytest.raises(bnfx.CaptureError, match="reads mask, an attribute that an example"):
        bnfx.fold(net(factor), marked(), keep="graph")


def test_what_asks_nothing_takes_what_it_gets() -> None:
    model = net(lambda x: 2 if isinstance(x, torch.Tensor) and isinstance(3, int) else 3)
    graph = bnfx.fold(model, X, keep="graph")
    for x in (X, X.as_subclass(Own), marked()):
        assert relative(graph(x).as_subclass(torch.Tensor), model(X)) < 1e-12


def test_tracing_has_classes_of_its_own() -> None:
    model = net(CLASSES["isinstance"])
    graph = bnfx.fold(model, X, keep="graph")
    program = torch.export.export(graph, (X,))
    assert relative(program.module()(X), model(X)) < 1e-12
    compiled = torch.compile(graph, backend="eager", fullgraph=True)
    assert relative(compiled(X), model(X)) < 1e-12


def test_the_default_dtype() -> None:
    model = net(lambda x: 2 if torch.get_default_dtype() == torch.float64 else 3)
    for graph in _read_again(bnfx.fold(model, X, keep="graph")):
        assert relative(graph(X), model(X)) < 1e-12
        torch.set_default_dtype(torch.float64)
        try:
            with pytest.raises(AssertionError, match="for a default dtype of"):
                graph(X)
        finally:
            torch.set_default_dtype(torch.float32)
    with pytest.raises(bnfx.CaptureError, match="asks for the default dtype"):
        bnfx.fold(model, keep="graph")


UNSUPPORTED = ("__class__", "singledispatch")  # by Dynamo, of such tensors


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in UNSUPPORTED])
def test_an_example_of_another_class(name: str) -> None:
    model = net(CLASSES[name])
    example: Any = X.as_subclass(Own)
    with torch.no_grad():
        graph = bnfx.fold(model, example, keep="graph")
        answer: Any = graph(example)
        expected = model(example).as_subclass(torch.Tensor)
        assert relative(answer.as_subclass(torch.Tensor), expected) < 1e-12
        with pytest.raises(AssertionError, match="of the class Own"):
            graph(X)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_example_whose_class_cannot_be_captured(name: str) -> None:
    with pytest.raises(bnfx.CaptureError, match="subclass"):
        bnfx.fold(net(CLASSES[name]), X.as_subclass(Own), keep="graph")
