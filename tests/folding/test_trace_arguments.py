"""What a trace without inputs takes its arguments to be, which the graph asserts; and what class of
dict it gives.
"""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import python_module, randomise, relative
from torch import fx, nn
from traced_forms import X, refused

import bnfx


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)


class Unpacking(Net):
    def forward(self, given: Any) -> Any:
        x, ((first, second), third) = given
        return self.bn(self.conv(x)) * first + second * third


class Defaults(Net):
    def forward(self, x: Any, scale: float = 2.0, power: int = 1, name: str = "a") -> Any:
        return self.bn(self.conv(x)) * scale**power + len(name)


class Ordered(Net):
    def forward(self, x: Any) -> Any:
        y = self.bn(self.conv(x))
        return OrderedDict([("out", y), ("more", OrderedDict(one=y + 1, two=[y]))])


def _graphs(model: nn.Module) -> Iterator[fx.GraphModule]:
    graph = bnfx.fold(model, keep="graph")
    yield from (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)))


GIVEN = (X, ((1.5, 2.0), 3))
OTHERS: dict[str, tuple[Any, str]] = {
    "a dict": ({0: X, 1: ((1.5, 2.0), 3)}, "given without an attribute keys"),
    "more": ((*GIVEN, 4), "given of 2 elements"),
    "a dict inside": ((X, ({0: 1, 1: 2}, 3)), r"given\[1\]\[0\] without an attribute keys"),
    "more inside": ((X, ((1, 2, 3), 3)), r"given\[1\]\[0\] of 2 elements"),
    "a tensor of three": ((X, (torch.ones(3), 3)), r"given\[1\]\[0\] of 2 elements"),
}


def test_names_made_of_an_argument() -> None:
    model = randomise(Unpacking()).eval()
    for graph in _graphs(model):
        for given in (GIVEN, list(GIVEN), (X, (torch.tensor([1.5, 2.0]), 3))):
            assert relative(graph(given), model(given)) < 1e-6


@pytest.mark.parametrize(("given", "said"), OTHERS.values(), ids=OTHERS.keys())
def test_names_are_not_made_of_what_else_has_elements(given: Any, said: str) -> None:
    for graph in _graphs(Unpacking().eval()):
        with pytest.raises(AssertionError, match=said):
            graph(given)


def looped(m: Any, x: Any) -> Any:
    y = m.c(x)
    for row in x:
        y = y + row
    return y


def starred(m: Any, x: Any) -> Any:
    first, *others = x
    return m.c(x) + first + len(others)


ITERATED: dict[str, Callable[[Any, Any], Any]] = {
    "a loop": looped,
    "the rest": starred,
    "a comprehension": lambda m, x: m.c(x) + len([row for row in x]),  # noqa: C416
    "a list": lambda m, x: m.c(x) + len(list(x)),
    "a display": lambda m, x: m.c(x) + len([*x]),
    "arguments": lambda m, x: m.c(x) + (lambda *rows: len(rows))(*x),
    "a sum": lambda m, x: m.c(x) + sum(x),
    "pairs": lambda m, x: m.c(x) + len(dict(zip(range(9), x))),  # noqa: B905
}


@pytest.mark.parametrize("way", ITERATED.values(), ids=ITERATED.keys())
def test_elements_are_not_counted_otherwise(way: Callable[[Any, Any], Any]) -> None:
    assert "cannot be iterated" in refused(way)


def test_more_names_than_a_byte_counts() -> None:
    """Python writes such a number in two steps."""
    names = [f"v{i}" for i in range(300)]
    text = f"def few(x):\n    {', '.join(names[:200])} = x\n    return v0\n"
    text += f"def many(x):\n    {', '.join(names)} = x\n    return v0\n"
    space = python_module("many_names", text)

    class Many(Net):
        def forward(self, x: Any) -> Any:
            return self.bn(self.conv(of(x)))

    of = space.few
    assert bnfx.fold(Many().eval(), keep="graph")([X] * 200).shape == (2, 4, 4, 4)
    of = space.many
    with pytest.raises(bnfx.CaptureError, match="cannot be iterated"):
        bnfx.fold(Many().eval(), keep="graph")


class _Float(float):
    pass


class _Int(int):
    pass


class _Text(str):
    pass


MAKE: dict[str, tuple[dict[str, Any], str]] = {
    "float": ({"scale": _Float(2.0)}, "scale of the class float"),
    "int": ({"power": _Int(1)}, "power of the class int"),
    "text": ({"name": _Text("a")}, "name of the class str"),
    "bool": ({"power": True}, "power=1"),
}


@pytest.mark.parametrize(("given", "said"), MAKE.values(), ids=MAKE.keys())
def test_a_default_is_of_its_class(given: dict[str, Any], said: str) -> None:
    for graph in _graphs(Defaults().eval()):
        graph(X, scale=2.0, power=1, name="a")
        with pytest.raises(AssertionError, match=said):
            graph(X, **given)


def test_what_a_container_holds_is_of_its_class() -> None:
    class Holding(Net):
        def forward(self, x: Any, scales: Any = (1.0, [2])) -> Any:
            return self.bn(self.conv(x)) * scales[0] + scales[1][0]

    graph = bnfx.fold(Holding().eval(), X, keep="graph")
    graph(X, (1.0, [2]))
    for scales, said in (
        ((_Float(1), [2]), r"scales\[0\]"),
        ((1.0, [_Int(2)]), r"scales\[1\]\[0\]"),
    ):
        with pytest.raises(AssertionError, match=said):
            graph(X, scales)


READ: dict[str, Callable[[fx.GraphModule], Any]] = {
    "as it is": lambda graph: graph,
    "compiled": lambda graph: torch.compile(graph, backend="bnfx"),
    "traced again": fx.symbolic_trace,
}


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_an_ordered_dict_comes_back_as_one(read: Callable[[fx.GraphModule], Any]) -> None:
    model = randomise(Ordered()).eval()
    for graph in _graphs(model):
        expected, found = model(X), read(graph)(X)
        assert type(found) is type(found["more"]) is OrderedDict
        assert list(found) == list(expected)
        assert relative(found["more"]["one"], expected["more"]["one"]) < 1e-6
        assert bnfx.explain(graph).graphs[0].verdicts == ()
