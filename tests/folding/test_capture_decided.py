"""What an example decides once: sizes that are not 1, which tensors are one, classes, NumPy."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import randomise, relative
from torch import fx, nn

import bnfx

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
Y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    scale: Any

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.line, self.norm = nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)
        self.run = run

    def f(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


def net(run: Callable[..., Any], **attributes: Any) -> Any:
    """A model whose ``forward`` is a function, with its signature."""
    kind = type("Net", (Net,), {"forward": run})
    model = randomise(kind(run).double()).eval()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


SQUEEZES = [
    lambda self, x: self.norm(self.line(x[:, :, 0, :3].squeeze(0))),
    lambda self, x: self.norm(self.line(torch.squeeze(x[:, :, 0, :3], dim=0))),
    lambda self, x: self.norm(self.line(x[:, :, 0, :3].squeeze((0,)))),
    lambda self, x: self.f(x) * x.squeeze(0).dim(),
    lambda self, x: self.f(x) * x.squeeze().dim(),
    lambda self, x: self.f(x) if x.squeeze().dim() == 4 else x,
]


@pytest.mark.parametrize("run", SQUEEZES)
def test_an_axis_that_is_dropped_if_its_size_is_1(run: Callable[..., Any]) -> None:
    model = net(run)
    graph = bnfx.fold(model, X, keep="graph")
    more = torch.cat([X, Y[:1]])
    for x in (X, Y, more):
        assert relative(graph(x), model(x)) < 1e-12
    with pytest.raises(AssertionError, match=r"x.shape\[0\] != 1"):
        graph(X[:1])
    assert relative(bnfx.fold(model, X[:1], keep="graph")(Y[:1]), model(Y[:1])) < 1e-12


def test_an_axis_that_a_traced_graph_drops() -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3))

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x.squeeze(0))

    traced = fx.symbolic_trace(randomise(Dropping().double()).eval())
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    graph = bnfx.fold(traced, x)
    assert relative(graph(x), traced(x)) < 1e-12
    with pytest.raises(AssertionError, match="size 2 on axis 0"):
        graph(x[:1])


def test_an_axis_of_size_1_is_dropped_in_any_call() -> None:
    model = net(lambda self, x: self.f(x).mean((2, 3), keepdim=True).squeeze(3).squeeze(-1))
    graph = bnfx.fold(model, X, keep="graph")
    for x in (X, X[:1], torch.cat([X, Y])):
        assert relative(graph(x), model(x)) < 1e-12


def _identities(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> list[tuple[Any, ...]]:
    return [(a, b, c), (a, a, c), (a, b, a), (a, b, b), (a, a, a)]


@pytest.mark.parametrize(
    "decides",
    [
        lambda a, b, c: a is b and b is not c,
        lambda a, b, c: a is b,
        lambda a, b, c: b is c and a is not b,
        lambda a, b, c: a is c,
    ],
)
@pytest.mark.parametrize("other", [Y, Y[:, :, :2], Y.float()], ids=["alike", "size", "dtype"])
def test_which_of_three_are_one(decides: Callable[..., bool], other: torch.Tensor) -> None:
    def run(self: Any, a: Any, b: Any, c: Any) -> Any:
        return self.f(a) * (2 if decides(a, b, c) else 1) + self.f(c.double()).mean()

    model = net(run)
    graph = bnfx.fold(model, X, other, X * 2, keep="graph")
    held = 0
    for given in _identities(X, Y, X * 2):
        try:
            answer = graph(*given)
        except AssertionError as error:
            assert "folded for inputs where" in str(error)  # noqa: PT017
        else:
            held += 1
            assert relative(answer, model(*given)) < 1e-12
    assert held >= 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.dtype == torch.float64,
        lambda x: x.requires_grad,
        lambda x: x.is_contiguous(),
        lambda x: x.dim_order() == (0, 1, 2, 3),
        lambda x: x.nbytes == 768,
    ],
)
@pytest.mark.parametrize("kind", [nn.Parameter, torch.Tensor.clone])
def test_what_is_asked_of_an_argument(ask: Callable[[Any], bool], kind: Any) -> None:
    model = net(lambda self, x: self.f(x.double()) * (2 if ask(x) else 1))
    graph = bnfx.fold(model, kind(X), keep="graph")
    others = [X.float(), X.contiguous(memory_format=torch.channels_last), X.clone()]
    others.append(X.clone().requires_grad_())
    with torch.no_grad():
        assert relative(graph(kind(X)), model(kind(X))) < 1e-12
        for each in map(kind, others):
            try:
                answer = graph(each)
            except AssertionError as error:
                assert "this graph was folded for" in str(error)  # noqa: PT017
            else:
                assert relative(answer, model(each)) < 1e-6


Pair = namedtuple("Pair", "one two")


class Listed(list[Any]):
    pass


def of_class(self: Any, held: Any) -> Any:
    known = [tuple, Pair, list, Listed, dict, OrderedDict, defaultdict]
    first = held[next(iter(held))] if isinstance(held, dict) else held[0]
    return self.f(first) * (1 + known.index(type(held)))


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ((X, Y), Pair(X, Y)),
        (Pair(X, Y), (X, Y)),
        ([X, Y], Listed([X, Y])),
        ({"a": X}, OrderedDict(a=X)),
        (OrderedDict(a=X), {"a": X}),
        ({"a": X}, defaultdict(list, a=X)),
    ],
)
def test_classes_of_containers(given: Any, other: Any) -> None:
    model = net(of_class)
    graph = bnfx.fold(model, given, keep="graph")
    assert relative(graph(given), model(given)) < 1e-12
    with pytest.raises(AssertionError, match="held of the class"):
        graph(other)


def test_keys_that_are_equal_are_not_the_same() -> None:
    model = net(lambda self, held: self.f(held[1]) * (2 if True in map(id, held) else 1))
    graph = bnfx.fold(model, {1: X}, keep="graph")
    with pytest.raises(AssertionError, match=r"held with the keys \[1\]"):
        graph({True: X})


NUMBERS = [np.sqrt(7), np.float32(2), np.int64(3), np.float16(2), np.bool_(True)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
def test_numbers_of_numpy_in_a_model(number: Any) -> None:
    model = net(lambda self, x: self.f(x) * self.scale, scale=number)
    for verify in ("auto", False):
        try:
            graph = bnfx.fold(model, X, keep="graph", verify=verify)
        except bnfx.CaptureError as error:
            assert "NumPy" in str(error)  # noqa: PT017
        else:
            assert relative(graph(Y), model(Y)) < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)  # some layers are run by no call
        same = bnfx.fold(model, X, keep="module")
    assert relative(same(Y), model(Y)) < 1e-12


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda self, x: (self.f(x), x.shape), "Size"),
        (lambda self, x: self.f(x).numpy(), "ndarray"),
        (lambda self, x: {"a": [self.f(x).numpy()]}, "ndarray"),
        (lambda self, x: self.f(x).sum().numpy()[()], "float64"),
    ],
)
@pytest.mark.parametrize("verify", ["auto", False])
def test_answers_that_a_graph_cannot_give(run: Callable[..., Any], what: str, verify: Any) -> None:
    model = net(run)
    with pytest.raises(bnfx.CaptureError, match=f"gives a {what}"):
        bnfx.fold(model, X, keep="graph", verify=verify)


@pytest.mark.parametrize("name", ["torch", "repr", "slice"])
def test_arguments_that_hide_what_a_graph_needs(name: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def forward(self, {name}):\n    return self.f({name})", space)
    with pytest.raises(bnfx.CaptureError, match=f"has an argument {name}"):
        bnfx.fold(net(space["forward"]), X, keep="graph")
