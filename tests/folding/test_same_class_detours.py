"""Ways round a layer's name: by lookups, metaclasses, descriptors, mixins, hooks, stored objects.

Each ``probe`` runs or reads the convolution by itself; the class that comes back answers as before.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import fold_class, randomise, vouched
from torch import nn

import bnfx

X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
NAME = "c"
FORMS: list[type[Any]] = []


class Base(nn.Module):
    mode: int

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.mode = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(x))


def form(kind: type[Any]) -> type[Any]:
    FORMS.append(kind)
    return kind


def probing(name: str, body: Callable[[Any, torch.Tensor], Any]) -> None:
    """A class whose ``probe`` is a function."""
    FORMS.append(type(name, (Base,), {"probe": body}))


probing("ByParameter", lambda self, x: F.conv2d(x, self.get_parameter(f"{NAME}.weight")))
probing("BySubmodule", lambda self, x: self.get_submodule("".join(["c"]))(x))
probing("ByGetattr", lambda self, x: self.__getattr__(NAME)(x))
probing("ByTables", lambda self, x: next(iter(self._modules.values()))(x))
probing("ByVars", lambda self, x: next(iter(vars(self)["_modules"].values()))(x))
probing("ByDict", lambda self, x: next(iter(self.__dict__["_modules"].values()))(x))
probing("ByGetter", lambda self, x: operator.attrgetter("c")(self)(x))
probing("ByCaller", lambda self, x: operator.methodcaller("get_submodule", NAME)(self)(x))
probing("ByChildren", lambda self, x: next(k(x) for k in self.children()))
probing("ByModules", lambda self, x: dict(self.named_modules())[NAME](x))
probing("ByNumber", lambda self, x: getattr(self, chr(99))(x))
probing("BySum", lambda self, x: x * sum(p.sum() for p in self.parameters()))
probing("ByBuffers", lambda self, x: x + sum(b.sum() for b in self.buffers()))
probing("OfTheNorm", lambda self, x: x + self.b.running_mean.view(1, -1, 1, 1))


@form
class BySuper(Base):
    def probe(self, x: torch.Tensor, name: str = NAME) -> Any:
        return super().__getattr__(name)(x)


@form
class ByApply(Base):
    def probe(self, x: torch.Tensor) -> Any:
        found = []

        def run(module: nn.Module) -> None:
            if isinstance(module, nn.Conv2d):
                found.append(module(x))

        self.apply(run)
        return found[0]


@form
class ByExec(Base):
    def probe(self, x: torch.Tensor) -> Any:
        names = {"self": self, "x": x}
        exec("y = self.c(x)", names)
        return names["y"]


GETTER = operator.attrgetter("c")
probing("ByGlobalGetter", lambda self, x: GETTER(self)(x))


class Reader:
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else owner._modules["c"]


@form
class ByDescriptor(Base):
    first = Reader()

    def probe(self, x: torch.Tensor) -> Any:
        return self.first(x)


class Meta(type):
    def run(cls, model: Any, x: torch.Tensor) -> Any:
        return model.c(x)


@form
class ByMetaclass(Base, metaclass=Meta):
    def probe(self, x: torch.Tensor) -> Any:
        return type(self).run(self, x)


class Mixin:
    c: nn.Module

    def probe(self, x: torch.Tensor) -> Any:
        return self.c(x)


@form
class ByMixin(Mixin, Base):
    pass


@form
class ByPartialMethod(Base):
    def _run(self, x: torch.Tensor, name: str) -> Any:
        return getattr(self, name)(x)

    probe = functools.partialmethod(_run, name="c")


@form
class ByProperty(Base):
    @property
    def first(self) -> nn.Module:
        return self.c

    def probe(self, x: torch.Tensor) -> Any:
        return self.first(x)


@form
class ByCachedProperty(Base):
    @functools.cached_property
    def first(self) -> nn.Module:
        return self.c

    def probe(self, x: torch.Tensor) -> Any:
        return self.first(x)


@form
class ByIndex(Base):
    def __getitem__(self, place: int) -> nn.Module:
        return (self.c, self.b)[place]

    def probe(self, x: torch.Tensor) -> Any:
        return self[0](x)


def holding(name: str, hold: Callable[[Any], Any], use: Callable[[Any, torch.Tensor], Any]) -> None:
    """A class that keeps something when it is made, and runs it later."""

    class Holds(Base):
        def __init__(self) -> None:
            super().__init__()
            self.held = hold(self.c)

        def probe(self, x: torch.Tensor) -> Any:
            return use(self.held, x)

    Holds.__name__ = name
    FORMS.append(Holds)


@dataclasses.dataclass(eq=False)
class Config:
    layer: nn.Module


class Slots:
    __slots__ = ("layer",)

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


Named = collections.namedtuple("Named", "layer")


def _default(c: nn.Module) -> Callable[[], nn.Module]:
    def get(c: nn.Module = c) -> nn.Module:
        return c

    return get


def _run_layer(held: Any, x: torch.Tensor) -> Any:
    return held.layer(x)


holding("HoldsSlots", Slots, _run_layer)
holding("HoldsDataclass", Config, _run_layer)
holding("HoldsNamedTuple", Named, _run_layer)
holding("HoldsNamespace", lambda c: types.SimpleNamespace(layer=c), _run_layer)
holding("HoldsPartial", functools.partial, lambda held, x: held(x))
holding("HoldsBound", lambda c: (c.forward,), lambda held, x: held[0](x))
holding("HoldsDefault", _default, lambda held, x: held()(x))
holding("HoldsWeakly", lambda c: weakref.WeakSet([c]), lambda held, x: next(iter(held))(x))
holding("HoldsWeight", lambda c: [c.weight], lambda held, x: F.conv2d(x, held[0]))
holding("HoldsView", lambda c: c.weight.detach().view(-1), lambda held, x: x * held.sum())


@form
class InAClass(Base):
    """What a body binds, the class has."""

    def probe(self, x: torch.Tensor) -> Any:
        class Kept:
            first = self.c(x)
            second = self.b(first)

        return Kept.first + Kept.second


@form
class WalksInAClass(Base):
    def probe(self, x: torch.Tensor) -> Any:
        class Kept:
            for layer in self.modules():  # noqa: B007
                pass

        return x * isinstance(Kept.layer, nn.BatchNorm2d)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_the_class_answers_as_the_original(kind: type[Any]) -> None:
    model = randomise(kind().double()).eval()
    same = fold_class(model)
    assert type(same) is kind
    with torch.no_grad():
        torch.testing.assert_close(same(X), model(X), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(same.probe(X), model.probe(X), rtol=1e-12, atol=1e-12)


class Harmless(Base):
    """What models do with all their weights, and which runs none."""

    def freeze(self) -> None:
        for parameter in self.parameters():
            parameter.requires_grad = False

    def count(self) -> int:
        return sum(p.numel() for _, p in self.named_parameters() if p.requires_grad)

    def place(self) -> Any:
        first = next(self.parameters(), None)
        return None if first is None else (first.device, first.dtype)

    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def reset(self) -> None:
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)


def test_facts_of_all_weights_are_no_obstacle() -> None:
    same = vouched(randomise(Harmless().double()).eval(), X)
    assert type(same) is Harmless
    assert type(same.b) is nn.Identity


class Default(Base):
    def forward(self, x: torch.Tensor, flag: Any = True, zero: float = 0.0) -> torch.Tensor:
        y = self.b(self.c(x))
        return y if flag is True else self.c(x)


@pytest.mark.parametrize("given", [{"flag": 1}, {"flag": False}, {"zero": -0.0}, {"zero": 0}])
@pytest.mark.parametrize("inputs", [(), (X,)], ids=["traced", "captured"])
def test_a_graph_tells_equal_arguments_of_other_types_apart(
    inputs: tuple[Any, ...], given: dict[str, Any]
) -> None:
    model = randomise(Default().double()).eval()
    try:
        graph = bnfx.fold(model, *inputs, keep="graph")
    except bnfx.CaptureError:
        assert not inputs, "with inputs it can be captured"
        return
    torch.testing.assert_close(graph(X), model(X))
    with pytest.raises(AssertionError, match=f"folded for {next(iter(given))}="):
        graph(X, **given)


class Containers(Base):
    def forward(self, x: torch.Tensor, sizes: Any = (1, 2)) -> torch.Tensor:
        return self.b(self.c(x)) * sizes[0]


def test_a_default_that_is_a_container() -> None:
    model = randomise(Containers().double()).eval()
    graph = bnfx.fold(model, X, keep="graph")
    torch.testing.assert_close(graph(X), model(X))
    with pytest.raises(AssertionError, match="folded for sizes"):
        graph(X, (3, 2))


class Tagger(nn.Module):
    """A recurrent net between convolutions, as for text or sound."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.c, self.b1 = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)
        self.r = cell(6, 5, batch_first=True, bidirectional=True)
        self.f, self.b2 = nn.Linear(10, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.r(self.b1(self.c(x)).transpose(1, 2))
        return self.b2(self.f(y).transpose(1, 2))


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_graph_takes_other_lengths(cell: type[nn.RNNBase]) -> None:
    model = randomise(Tagger(cell).double()).eval()
    graph = bnfx.fold(model, torch.randn(2, 4, 9).double(), keep="graph")
    assert isinstance(graph, torch.fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in graph.modules())
    for shape in ((2, 4, 9), (1, 4, 12), (3, 4, 5)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(graph(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_a_user_vouched_for_is_in_the_report() -> None:
    model = randomise(ByApply().double()).eval()
    same = bnfx.fold(model, X, keep="module", assume="example")
    assert type(same.b) is nn.Identity
    assert 'assume="example"' in str(bnfx.explain(same, X))
