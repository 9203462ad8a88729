"""Code that is trusted by its name, or reads facts about weights, and then turns out to be run.

What sets weights up may ask of which class a layer is, and a count of parameters is no answer;
unless a call runs it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import fold_class, randomise, vouched
from torch import nn

X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
FORMS: list[type[Any]] = []


class Base(nn.Module):
    """Folds, whatever a subclass does before and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.fill()

    def fill(self) -> None:
        pass

    def base(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(x))

    def answer(self, x: torch.Tensor) -> Any:
        return 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) * self.answer(x)


def form(kind: type[Any]) -> type[Any]:
    FORMS.append(kind)
    return kind


def answering(name: str, body: Callable[[Any, torch.Tensor], Any], **more: Any) -> None:
    """A class whose answer is multiplied by what a function gives."""
    FORMS.append(type(name, (Base,), {"answer": body, **more}))


def is_norm(module: Any) -> float:
    return 2.0 if isinstance(module.b, nn.BatchNorm2d) else 3.0


def optimal(weights: Any) -> Any:
    return sum(each.abs().sum() for each in weights)


answering("Elements", lambda self, x: sum(p.numel() for p in self.parameters()))
answering("Number", lambda self, x: sum(1 for _ in self.parameters()))
answering("Buffers", lambda self, x: len([1 for _ in self.buffers()]))
answering("Modules", lambda self, x: sum(isinstance(m, nn.BatchNorm2d) for m in self.modules()))
answering("ByNameOfOptimizers", lambda self, x: optimal(self.parameters()))
answering("Text", lambda self, x: len(self.extra_repr()), extra_repr=lambda self: repr(self.b))
answering("InAHelper", lambda self, x: self.size(), size=lambda self: count(self))


def count(module: Any) -> int:
    total = 0
    for each in module.parameters():
        total += each.shape[0]
    return total


@form
class Loop(Base):
    def answer(self, x: torch.Tensor) -> Any:
        total = 0
        for each in self.parameters():
            total += each.dim()
        return total


@form
class AfterALoop(Base):
    def answer(self, x: torch.Tensor) -> Any:
        for each in self.parameters():
            each.requires_grad_(False)
        return each.sum()


@form
class OfTheFirst(Base):
    """Whose dtype is one of two, of which only one stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3, dtype=torch.float32)

    def answer(self, x: torch.Tensor) -> Any:
        return 2 if next(self.b.parameters()).dtype == torch.float64 else 3


class SettingUp(Base):
    def init_weights(self, x: torch.Tensor) -> Any:
        return 2.0 if isinstance(self.b, nn.BatchNorm2d) else 3.0


@form
class Directly(SettingUp):
    def answer(self, x: torch.Tensor) -> Any:
        return self.init_weights(x)


@form
class ByAnotherName(SettingUp):
    run = SettingUp.init_weights

    def answer(self, x: torch.Tensor) -> Any:
        return self.run(x)


@form
class ByAComputedName(SettingUp):
    def answer(self, x: torch.Tensor) -> Any:
        return getattr(self, "init" + "_weights")(x)


@form
class ByAString(SettingUp):
    def answer(self, x: torch.Tensor) -> Any:
        name = "init_weights"
        return getattr(self, name)(x)


@form
class Held(SettingUp):
    def fill(self) -> None:
        self.run = functools.partial(is_norm_at_setup, self)

    def answer(self, x: torch.Tensor) -> Any:
        return is_norm_at_setup(self)


def is_norm_at_setup(module: Any) -> float:
    return init_norm(module)


def init_norm(module: Any) -> float:
    return 2.0 if isinstance(module.b, nn.BatchNorm2d) else 3.0


@form
class Decorated(SettingUp):
    @torch.no_grad()
    def init_weights(self, x: torch.Tensor) -> Any:
        return is_norm(self)

    def answer(self, x: torch.Tensor) -> Any:
        return self.init_weights(x)


@form
class Static(Base):
    @staticmethod
    def init_norm(module: Any) -> float:
        return 2.0 if isinstance(module.b, nn.BatchNorm2d) else 3.0

    def answer(self, x: torch.Tensor) -> Any:
        return self.init_norm(self)


@form
class Property(Base):
    @property
    def init_layers(self) -> float:
        return 2.0 if isinstance(self.b, nn.BatchNorm2d) else 3.0

    def answer(self, x: torch.Tensor) -> Any:
        return self.init_layers


@form
class Operator(Base):
    def __mul__(self, x: Any) -> Any:
        return self.init_weights()

    def init_weights(self) -> float:
        return 2.0 if isinstance(self.b, nn.BatchNorm2d) else 3.0

    def answer(self, x: torch.Tensor) -> Any:
        return self * 1


@form
class Mode(Base):
    """What a mode is set by is kept, and read by a call."""

    known = 1.0

    def train(self, mode: bool = True) -> Any:
        self.known = 2.0 if isinstance(self.b, nn.BatchNorm2d) else 3.0
        return super().train(mode)

    def answer(self, x: torch.Tensor) -> Any:
        return self.known


@form
class Initialised(Base):
    def answer(self, x: torch.Tensor) -> Any:
        nn.init.constant_(self.c.weight, 0.5)
        return 1


@form
class InitialisedByName(Base):
    def _init_layer(self, layer: Any) -> None:
        layer.weight.data.fill_(0.5)

    def answer(self, x: torch.Tensor) -> Any:
        self._init_layer(self.c)
        return 1


@form
class Applied(Base):
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)

    def answer(self, x: torch.Tensor) -> Any:
        self.apply(self._init_weights)
        return 1


@form
class FromAFile(Base):
    def load_and_run(self) -> Any:
        return self.state_dict()["".join(["c.", "weight"])].sum()

    def answer(self, x: torch.Tensor) -> Any:
        return self.load_and_run()


@form
class NumberOfFeatures(Base):
    def answer(self, x: torch.Tensor) -> Any:
        return self.b.num_features


@form
class FactsOfItsWeight(Base):
    def answer(self, x: torch.Tensor) -> Any:
        return 2.0 if self.b.weight.dtype == torch.float64 else 3.0


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_what_a_call_runs_is_not_trusted(kind: type[Any]) -> None:
    model = randomise(kind().double()).eval()
    same = fold_class(model)
    assert type(same) is kind
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(same(X), model(X), rtol=1e-12, atol=1e-12)
            same.train().eval()
            model.train().eval()


class Usual(Base):
    """What models have, and no call runs; or what a fold leaves as it is."""

    def count(self, trained: bool = False) -> int:
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trained)

    def freeze(self, stages: int) -> None:
        for each in self.parameters():
            each.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def init_weights(self) -> None:
        if isinstance(self.b, nn.BatchNorm2d):
            nn.init.ones_(self.b.weight)

    @staticmethod
    def _init_conv(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)

    def reset(self) -> None:
        self.apply(self._init_conv)

    def load_from(self, path: str) -> None:
        known = self.state_dict()
        self.load_state_dict({k: v for k, v in torch.load(path).items() if k in known})

    def reset_classifier(self, classes: int) -> None:
        first = next(self.parameters(), None)
        if first is not None:
            self.head = nn.Linear(3, classes, device=first.device, dtype=first.dtype)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if isinstance(self.b, nn.BatchNorm2d):
            self.b.eval()
        return self

    def __repr__(self) -> str:
        return f"{type(self.b).__name__} of {self.count()}"

    def answer(self, x: torch.Tensor) -> Any:
        same = x.to(next(self.parameters()).dtype).to(self.c.weight.device)
        return same.mean() * self.c.out_channels


def test_what_no_call_runs_is_no_obstacle() -> None:
    model = randomise(Usual().double()).eval()
    same = vouched(model, X)
    assert type(same) is Usual
    assert type(same.b) is nn.Identity
    torch.testing.assert_close(same(X), model(X), rtol=1e-12, atol=1e-12)


class Remembers(nn.BatchNorm2d):
    """Tracing runs this with symbols, which must not stay."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.kept: list[Any] = [1]
        self.table: dict[str, Any] = {"a": 1}
        self.names = {1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_batches_tracked += 1
        self.kept.append(x)
        self.table["b"] = self.last = x
        self.names.add(len(self.kept))
        return super().forward(x) * self.num_batches_tracked


def test_what_tracing_binds_is_bound_again() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 3, 1), Remembers(3)).double()).eval()
    same = fold_class(model)
    for each in (same[1], model[1]):
        assert (each.kept, each.table, each.names) == ([1], {"a": 1}, {1})
        assert int(each.num_batches_tracked) == 0
        assert not hasattr(each, "last")
    for _ in range(3):
        torch.testing.assert_close(same(X), model(X), rtol=1e-12, atol=1e-12)
