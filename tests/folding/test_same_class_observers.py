"""Code that looks at what a fold changes (a layer's class, whether it has a bias, its mode), and
results that leave their block by an exception or by another name of ``self``.

The class that comes back answers as the original, whatever ``probe`` does.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

import bnfx

X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
FORMS: list[type[Any]] = []


class Base(nn.Module):
    flag: bool

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.flag = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(x))


def form(kind: type[Any]) -> type[Any]:
    FORMS.append(kind)
    return kind


def asking(name: str, question: Callable[[Any], Any]) -> None:
    """A class whose answer depends on a question about its layers."""

    def probe(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self(x) * 2 if question(self) else self(x)

    FORMS.append(type(name, (Base,), {"probe": probe, "question": question}))


asking("Isinstance", lambda self: isinstance(self.b, nn.BatchNorm2d))
asking("IsIdentity", lambda self: not isinstance(self.b, nn.Identity))
asking("Type", lambda self: type(self.b) is nn.BatchNorm2d)
asking("TypeName", lambda self: type(self.b).__name__.startswith("Batch"))
asking("Subclass", lambda self: issubclass(type(self.b), nn.BatchNorm2d))
asking("Has", lambda self: hasattr(self.b, "running_mean"))
asking("Printed", lambda self: "Batch" in repr(self.b))
asking("AsText", lambda self: "Batch" in str(self.b))
asking("Formatted", lambda self: "Batch" in f"{self.b}")
asking("Extra", lambda self: "eps" in self.b.extra_repr())
asking("NoBias", lambda self: self.c.bias is None)
asking("ABias", lambda self: self.c.bias is not None)
asking("NoWeight", lambda self: getattr(self.b, "weight", None) is None)
asking("OfAnyKind", lambda self: any(isinstance(m, nn.BatchNorm2d) for m in self.modules()))
asking("OfAChild", lambda self: [m for m in self.children() if isinstance(m, nn.BatchNorm2d)])


@form
class ByStatement(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.c(x))
        if isinstance(self.b, nn.BatchNorm2d):
            x = x * 2
        return x


@form
class ByFlag(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = hasattr(self.b, "eps")
        return self.b(self.c(x)) if plain else x


@form
class CountedKinds(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = 0
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                n += 1
        return self.b(self.c(x)) * n


@form
class Trains(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.b.train()
        return self.b(self.c(x))


@form
class TrainsItself(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.train()
        x = self.b(self.c(x))
        self.eval()
        return x


@form
class TrainsEach(Base):
    def probe(self, x: torch.Tensor) -> Any:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        return self(x)


@form
class SetsTheMode(Base):
    def probe(self, x: torch.Tensor) -> Any:
        self.b.training = True
        return self(x)


@form
class SetsThePadding(Base):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(x))

    def probe(self, x: torch.Tensor) -> Any:
        self.c.padding = (1, 1)
        return self(x)


class Swallows:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> bool:
        return True


@form
class LeavesAWith(Base):
    def probe(self, x: torch.Tensor) -> Any:
        self.flag = True
        return self(x)

    def check(self) -> None:
        if self.flag:
            raise ValueError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        with contextlib.suppress(ValueError):
            y = self.c(x)
            self.check()
            y = self.b(y)
        return y


@form
class LeavesAWithOfItsOwn(LeavesAWith):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        with torch.no_grad(), Swallows():
            y = self.c(x)
            self.check()
            y = self.b(y)
        return y


@form
class LooksAtTheFrame(Base):
    def peek(self) -> Any:
        return sys._getframe(1).f_locals["y"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.c(x)
        peeked = self.peek()
        y = self.b(y)
        return y + peeked


@form
class HandsItsStateOn(Base):
    def probe(self, x: torch.Tensor) -> Any:
        return self.__getstate__()["_modules"]["".join(["c"])](x)


class Row(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*(layers or (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))))


def reaching(name: str, body: Callable[[Any, torch.Tensor], Any]) -> None:
    """A sequence that hands itself on under another name."""
    FORMS.append(type(name, (Row,), {"probe": body}))


def _unpacked(self: Any, x: torch.Tensor) -> Any:
    first, *_ = self
    return first(x)


def _renamed(self: Any, x: torch.Tensor) -> Any:
    row = self
    return row[0](x)


def _listed(self: Any, x: torch.Tensor) -> Any:
    return [self][0][0](x)


def _chosen(self: Any, x: torch.Tensor) -> Any:
    return (self or x)[0](x)


def _walrus(self: Any, x: torch.Tensor) -> Any:
    return (row := self)[0](x) + row[0](x)


def _generated(self: Any, x: torch.Tensor) -> Any:
    def layers() -> Any:
        yield from self

    return next(layers())(x)


def _by_keyword(self: Any, x: torch.Tensor) -> Any:
    return max(self, key=lambda layer: layer is not self[0])(x)


for _body in (_unpacked, _renamed, _listed, _chosen, _walrus, _generated, _by_keyword):
    reaching(_body.__name__.strip("_").title().replace("_", ""), _body)


def running(name: str, probe: Callable[..., Any], forward: Any = None, **methods: Any) -> None:
    """A class whose method ``probe`` runs a layer alone, or a way of its own."""
    body = {"probe": probe, **methods, **({"forward": forward} if forward else {})}
    FORMS.append(type(name, (Base,), body))


running("EvalThenCalled", lambda self, x: self.c.eval()(x))
running("OffThenCalled", lambda self, x: self.c.train(False)(x))
running("FrozenThenCalled", lambda self, x: self.c.requires_grad_(False)(x))
running("WeightHandedOn", lambda s, x: nn.functional.conv2d(x, s.c.weight.requires_grad_(False)))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
        self.outs: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row(x)


class Itself(nn.Sequential):
    def me(self) -> Itself:
        return self


def in_a_row(name: str, probe: Callable[..., Any], **methods: Any) -> None:
    FORMS.append(type(name, (Stem,), {"probe": probe, **methods}))


in_a_row("EvalThenIndexed", lambda self, x: self.row.eval()[0](x))


@form
class OwnMethod(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.row = Itself(*self.row)

    def probe(self, x: torch.Tensor) -> Any:
        return self.row.me()[0](x)


@form
class Iterated(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))

    def probe(self, x: torch.Tensor) -> Any:
        for layer in self.eval():
            return layer(x)


@form
class IteratedByOwnMethod(Itself):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))

    def probe(self, x: torch.Tensor) -> Any:
        return next(iter(self.me()))(x)


@form
class WalkedThenCalled(Base):
    def probe(self, x: torch.Tensor) -> Any:
        for layer in self.modules():
            if layer is not self:
                return layer.eval()(x)


@form
class InitHidden(Base):
    h: Any = None

    def init_hidden(self, layer: Any, x: torch.Tensor) -> None:
        self.h = layer(x)

    def probe(self, x: torch.Tensor) -> Any:
        self.init_hidden(self.c, x)
        return self.h + self(x)


@form
class CheckFinite(Base):
    h: Any = None

    def check_finite(self, layer: Any, x: torch.Tensor) -> None:
        self.h = layer(x)

    def probe(self, x: torch.Tensor) -> Any:
        self.check_finite(self.c, x)
        return self.h


@form
class InitialBlock(Base):
    def initial(self, y: torch.Tensor) -> torch.Tensor:
        return y if self.c.bias is None else y * 2

    def probe(self, x: torch.Tensor) -> Any:
        return self.initial(self(x))


@form
class Appended(Base):
    def probe(self, x: torch.Tensor) -> Any:
        outs: list[Any] = []
        outs.append(x * 2 if self.c.bias is None else x)
        return outs[0]


@form
class WrittenTo(Base):
    def probe(self, x: torch.Tensor) -> Any:
        y = x.clone()
        y.mul_(2 if isinstance(self.b, nn.BatchNorm2d) else 1)
        return y


@form
class KeptTypes(Base):
    def probe(self, x: torch.Tensor) -> Any:
        kinds: list[Any] = []
        kinds.append(type(self.b))
        return x * 2 if nn.BatchNorm2d in kinds else x


@form
class AssertedWalrus(Base):
    def probe(self, x: torch.Tensor) -> Any:
        assert (plain := self.c.bias is None) or True  # noqa: RUF018
        return x * 2 if plain else x


@form
class CaughtAssertion(Base):
    def probe(self, x: torch.Tensor) -> Any:
        try:
            assert self.c.bias is None
        except AssertionError:
            return x * 2
        return x


@form
class CaughtElsewhere(Base):
    def check(self) -> None:
        if self.c.bias is not None:
            raise ValueError("a bias")

    def probe(self, x: torch.Tensor) -> Any:
        try:
            self.check()
        except ValueError:
            return x * 2
        return x


@form
class Swallowed(Base):
    def check(self) -> None:
        assert isinstance(self.b, nn.BatchNorm2d)

    def probe(self, x: torch.Tensor) -> Any:
        with contextlib.suppress(AssertionError):
            self.check()
            return x * 2
        return x


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Base() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def dropout_on(self) -> None:
        raise NotImplementedError

    def probe(self, x: torch.Tensor) -> Any:
        self.dropout_on()
        y = self(x)
        self.eval()
        return y


@form
class TrainedInALoop(Blocks):
    def dropout_on(self) -> None:
        for block in self.blocks:
            block.train()


@form
class TrainedByIndex(Blocks):
    def dropout_on(self) -> None:
        self.blocks[0].train()


@form
class TrainedByName(Blocks):
    def dropout_on(self) -> None:
        block = self.blocks[1]
        block.train()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_the_class_answers_as_the_original(kind: type[Any]) -> None:
    torch.manual_seed(0)
    model = randomise(kind()).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        folded: Any = bnfx.fold(model, keep="module")
    with torch.no_grad():
        for ask in (lambda m: m(X), lambda m: getattr(m, "probe", m)(X)):
            torch.testing.assert_close(ask(folded), ask(model), rtol=1e-10, atol=1e-10)


class Careful(Base):
    """All of this leaves answers alone: whoever knows that may vouch for it."""

    def train(self, mode: bool = True) -> Careful:
        super().train(mode)
        self.b.train(False)
        return self

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def freeze(self) -> Careful:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
            elif hasattr(module, "weight"):
                module.requires_grad_(False)
        return self

    def check(self) -> None:
        assert isinstance(self.b, nn.BatchNorm2d)
        if self.b is None:
            raise ValueError(f"{self.c} has none")
        print(type(self.b), f"of {self}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.c(x)
            y = self.b(y)
        return y


def test_what_decides_nothing_is_no_obstacle() -> None:
    model = randomise(Careful()).double().eval()
    folded: Any = bnfx.fold(model, X, keep="module", assume="example")
    assert isinstance(folded.b, nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(folded(X), model(X), rtol=1e-10, atol=1e-10)
