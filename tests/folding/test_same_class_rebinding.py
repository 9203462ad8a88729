"""Code that reaches a layer by a name that it did not have, or puts another in its place.

Private names, ``global``, containers whose order is their own, ``__getattr__`` that gives something
else, attributes that are bound while the model runs, weights read from the state dict. The class
that comes back answers as the original, whatever ``probe`` does.
"""

from __future__ import annotations

import contextlib
import copy
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import randomise, vouched
from torch import nn

import bnfx

X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
FORMS: list[type[Any]] = []
LETTER = "b"


def form(kind: type[Any]) -> type[Any]:
    FORMS.append(kind)
    return kind


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(x))


class Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.j = Base(), Base()
        self.now: Any = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k(x) + self.j(x)


def probing(name: str, base: type[nn.Module], probe: Any, **rest: Any) -> None:
    FORMS.append(type(name, (base,), {"probe": probe, **rest}))


# Shown, where an answer depends on it.
@form
class Shown(Base):
    def probe(self, x: torch.Tensor) -> Any:
        return x * len(f"{self}")


@form
class AsText(Base):
    def probe(self, x: torch.Tensor) -> Any:
        return x * ("BatchNorm" in str(self))


@form
class Repr(Base):
    def probe(self, x: torch.Tensor) -> Any:
        return x * len(repr(self))


@form
class Caught(Base):
    def probe(self, x: torch.Tensor) -> Any:
        try:
            return x * self.b.num_features
        except AttributeError:
            return x


@form
class Suppressed(Base):
    def probe(self, x: torch.Tensor) -> Any:
        with contextlib.suppress(AttributeError):
            x = x * self.b.weight.dim() * 3
        return x


# Trusted by a name that is another's.
class Starter:
    def run(self, layer: nn.Module, x: torch.Tensor) -> Any:
        return layer(x)


init = Starter()


@form
class OwnInit(Base):
    def __init__(self) -> None:
        super().__init__()
        self.init = Starter()

    def probe(self, x: torch.Tensor) -> Any:
        return self.init.run(self.c, x)


@form
class GlobalInit(Base):
    def probe(self, x: torch.Tensor) -> Any:
        return init.run(self.c, x)


# Containers with an order of their own.
class Backwards(nn.Sequential):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__())[::-1])


class Between(nn.Sequential):
    def __iter__(self) -> Iterator[Any]:
        for layer in super().__iter__():
            yield layer
            yield nn.ReLU()


class Through(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x)

    def probe(self, x: torch.Tensor) -> Any:
        return self.q(x)


@form
class RunBackwards(Through):
    def __init__(self) -> None:
        super().__init__()
        self.q = Backwards(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


@form
class RunBetween(Through):
    def __init__(self) -> None:
        super().__init__()
        self.q = Between(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


# Attributes that are not what is registered.
class Raw(Base):
    raw = False

    def probe(self, x: torch.Tensor) -> Any:
        self.raw = True
        y = self(x)
        self.raw = False
        return y


@form
class OtherByClass(Raw):
    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return nn.Identity() if self.raw and isinstance(found, nn.BatchNorm2d) else found


@form
class OtherByName(Raw):
    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return F.relu if self.raw and name.startswith(LETTER) else found


@form
class OtherFirst(Raw):
    def __getattribute__(self, name: str) -> Any:
        if len(name) == 1 and "a" < name < "c" and super().__getattribute__("raw"):
            return torch.neg
        return super().__getattribute__(name)


@form
class OtherAtLast(Raw):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        finally:
            if self.raw and name == LETTER:
                return torch.neg  # noqa: B012


# Private names.
@form
class PrivateRow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.__q = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.__q(x)

    def probe(self, x: torch.Tensor) -> Any:
        return self.__q[:1](x)


class Private(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.__c, self.__b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def probe(self, x: torch.Tensor) -> Any:
        return self.__c(x)


@form
class PrivateElsewhere(Private):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._Private__b(self._Private__c(x))


# Names that outlive their function.
@form
class GlobalRow(Row):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global last
        last = self.q
        return self.q(x)

    def probe(self, x: torch.Tensor) -> Any:
        self(x)
        return last[0](x)


@form
class NonlocalRow(Row):
    def probe(self, x: torch.Tensor) -> Any:
        row: Any = None

        def take() -> None:
            nonlocal row
            row = self.q

        take()
        return row[0](x)


@form
class GlobalLoop(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))])

    def probe(self, x: torch.Tensor) -> Any:
        global row
        for row in self.rows:  # noqa: B007
            pass
        return _first_of_row(x)


def _first_of_row(x: torch.Tensor) -> Any:
    return row[0](x)


@form
class GlobalWalk(Base):
    def probe(self, x: torch.Tensor) -> Any:
        global layer
        for layer in self.modules():  # noqa: B007
            pass
        return _last_layer(x)


def _last_layer(x: torch.Tensor) -> Any:
    return layer(x)


@form
class GlobalWeight(Base):
    def probe(self, x: torch.Tensor) -> Any:
        global weight
        for weight in self.parameters():  # noqa: B007
            break
        return _by_weight(x)


def _by_weight(x: torch.Tensor) -> Any:
    return F.conv2d(x, weight)


@form
class Shadow(Parent):
    def probe(self, x: torch.Tensor) -> Any:
        types = self.k

        def run() -> Any:
            return types.c(x)

        return run()


@form
class AnotherApply(Base):
    def probe(self, x: torch.Tensor) -> Any:
        found: list[Any] = []
        go = self.apply
        go(found.append)
        return found[0](x)


# Another layer in its place, or a layer in another place.
probing("Add", Base, lambda self, x: (self.add_module(LETTER, nn.Identity()), self(x))[1])
probing("Register", Base, lambda self, x: (self.register_module(LETTER, nn.ReLU()), self(x))[1])
probing("Submodule", Base, lambda self, x: (self.set_submodule(LETTER, nn.ReLU()), self(x))[1])
probing("Set", Base, lambda self, x: (setattr(self, LETTER, nn.Identity()), self(x))[1])
probing("Dunder", Base, lambda self, x: (self.__setattr__(LETTER, nn.ReLU()), self(x))[1])
probing("Child", Parent, lambda self, x: (self.k.add_module(LETTER, nn.ReLU()), self(x))[1])


@form
class Deleted(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(x))

    def probe(self, x: torch.Tensor) -> Any:
        delattr(self, LETTER)
        self.add_module(LETTER, nn.Identity())
        return self(x)


@form
class BoundLater(Parent):
    def probe(self, x: torch.Tensor) -> Any:
        self.now = self.k
        return self.now.c(x)


@form
class BoundOverNumber(Base):
    def __init__(self) -> None:
        super().__init__()
        self.k = Base()
        self.later = 3

    def probe(self, x: torch.Tensor) -> Any:
        self.later = self.k
        return self.later.c(x)


@form
class Exchanged(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.j.c = nn.Conv2d(3, 3, 3, padding=1)

    def probe(self, x: torch.Tensor) -> Any:
        self.k, self.j = self.j, self.k
        return self.k.c(x)


@form
class AddedLater(Parent):
    def probe(self, x: torch.Tensor) -> Any:
        self.add_module("now", self.k)
        return self.now.c(x)


@form
class SetLater(Parent):
    def probe(self, x: torch.Tensor) -> Any:
        setattr(self, "n" + "ow", self.k)
        return self.now.c(x)


@form
class IntoDict(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.ModuleDict({"a": nn.Identity()})

    def probe(self, x: torch.Tensor) -> Any:
        self.table["a"] = self.k
        return self.table.a.c(x)


@form
class BoundMethod(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.k.forward

    def probe(self, x: torch.Tensor) -> Any:
        return self.run.__self__.c(x)


@form
class OwnMethod(Base):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.forward

    def probe(self, x: torch.Tensor) -> Any:
        return self.run.__self__.c(x)


@form
class Namespace(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.held = types.SimpleNamespace(k=self.k)

    def probe(self, x: torch.Tensor) -> Any:
        return self.held.k.c(x)


# A mode that is not the model's.
@form
class OtherMode(Base):
    def __init__(self) -> None:
        super().__init__()
        self.how = types.SimpleNamespace(training=True)

    def probe(self, x: torch.Tensor) -> Any:
        self.b.train(self.how.training)
        return self(x)


@form
class OwnMode(Base):
    def probe(self, x: torch.Tensor) -> Any:
        self.training = True
        self.b.train(self.training)
        return self(x)


# Weights by the state dict.
probing("Value", Base, lambda self, x: F.conv2d(x, next(iter(self.state_dict().values()))))
probing("Sum", Base, lambda self, x: x * sum(v.sum() for v in self.state_dict().values()))
probing("OfChild", Parent, lambda self, x: F.conv2d(x, next(iter(self.k.state_dict().values()))))
probing("Count", Base, lambda self, x: x * len(self.state_dict()))


@form
class Doubled(Base):
    def probe(self, x: torch.Tensor) -> Any:
        self.load_state_dict({key: value * 2 for key, value in self.state_dict().items()})
        return self(x)


def _answer(model: Any, x: torch.Tensor) -> list[Any]:
    """Of a call, of ``probe``, and of a call after it."""
    with torch.no_grad():
        return [copy.deepcopy(model)(x), copy.deepcopy(model).probe(x)]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_the_class_answers_as_the_original(kind: type[Any]) -> None:
    model = randomise(kind()).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        folded = bnfx.fold(model, keep="module")
    for actual, expected in zip(_answer(folded, X), _answer(model, X), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


class Careful(Base):
    """What of this sounds alike leaves answers alone, so that the class folds."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Sequential()

    def save(self, path: str) -> None:
        torch.save(self.state_dict(), path)

    def load(self, path: str) -> None:
        own = self.state_dict()
        own.update(torch.load(path))
        self.load_state_dict(own)

    def grow(self) -> nn.Module:
        row = nn.Sequential(nn.ReLU())
        self.side = nn.Sequential(row)
        self.side[0].train(self.training)
        return row

    def reset(self) -> None:
        nn.init.zeros_(self.c.weight)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).argmax(1)


def test_what_only_sounds_alike_is_no_obstacle() -> None:
    model = randomise(Careful()).double().eval()
    folded = vouched(model, X)
    assert isinstance(folded.b, nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(folded(X), model(X), rtol=1e-10, atol=1e-10)


class Growing(Base):
    def grow(self, name: str) -> nn.Module:
        row = nn.Sequential()
        row.add_module(name, nn.ReLU())
        return row


class Getting(Base):
    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Applying(Base):
    def look(self) -> None:
        self.apply(lambda module: print(module.training))


@pytest.mark.parametrize("kind", [Getting, Growing, Applying], ids=lambda k: k.__name__)
def test_what_is_not_read_any_closer_is_folded_in_the_graph(kind: type[Any]) -> None:
    """None of these reaches a layer; whoever knows that may vouch for it."""
    model = randomise(kind()).double().eval()
    with pytest.warns(bnfx.FoldWarning, match="is not plain|is no plain method"):
        folded = bnfx.fold(model, X)
    assert isinstance(folded, torch.fx.GraphModule)
    with torch.no_grad():
        torch.testing.assert_close(folded(X), model(X), rtol=1e-10, atol=1e-10)
