"""Code that gets at a layer by another class, or by a look-up of Python's or torch's: real answers.

Each of these models answered otherwise once its BatchNorm was folded. What stands for each of the
rules alone is in ``sources/not_proved_of_a_block.txt``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from operator import attrgetter as of
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn
from torch.func import functional_call

import bnfx

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
NAME = "conv"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.bn(self.conv(x))


class Stranger(nn.Module):
    def alone(self, x: torch.Tensor) -> Any:
        return self.conv(x)


class Wrapper(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> Any:
        return self.block.conv(x)


class Net(nn.Module):
    shared: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.block, self.stranger = Block(), Stranger()

    def forward(self, x: torch.Tensor) -> Any:
        return self.block(x)


class WithGivenWeights(Net):
    def probe(self, x: torch.Tensor) -> Any:
        return functional_call(self.block, {f"{NAME}.weight": torch.ones(3, 3, 1, 1).to(x)}, (x,))


class ByAWrapper(Net):
    def probe(self, x: torch.Tensor) -> Any:
        return Wrapper(self.block)(x)


class ByAnotherClass(Net):
    def probe(self, x: torch.Tensor) -> Any:
        return Stranger.alone(self.block, x)  # type: ignore[arg-type]


class Borrowing(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = Borrower()

    def probe(self, x: torch.Tensor) -> Any:
        return self.block.borrowed(x)


class Borrower(Block):
    borrowed = Stranger.alone


class ByTheClass(Net):
    def probe(self, x: torch.Tensor) -> Any:
        type(self).shared = self.block
        return self.look(x)

    @classmethod
    def look(cls, x: torch.Tensor) -> Any:
        return cls.shared.conv(x)


class Unbound(Net):
    def probe(self, x: torch.Tensor) -> Any:
        return nn.Module.get_submodule(self.block, NAME)(x)


class ByOperator(Net):
    def probe(self, x: torch.Tensor) -> Any:
        return of(NAME)(self.block)(x)


class InAFunction(Net):
    def probe(self, x: torch.Tensor) -> Any:
        def alone(self: Any) -> Any:
            return self.conv(x)

        return alone(self.block)


class Matched(Net):
    def probe(self, x: torch.Tensor) -> Any:
        match self.block:
            case Block(conv=found):
                return found(x)


class Reset(Net):
    def __init__(self) -> None:
        super().__init__()
        self.source: dict[str, Any] = {}

    def probe(self, x: torch.Tensor) -> Any:
        self.block.load_state_dict(self.source, strict=False)
        return self.block(x)


class Adapting(Net):
    """It puts its BatchNorm into training mode where a flag is set, by ``eval()``, too."""

    def __init__(self) -> None:
        super().__init__()
        self.adapts = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.block.bn.train(self.adapts)
        return self


class Counting(Net):
    """What ``eval()`` finds out goes into the answers."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.factor = 1
        if isinstance(self.block.bn, nn.BatchNorm2d):
            self.factor = 2
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.block(x) * self.factor


class Prepared(Net):
    """What a method finds out goes into the answers."""

    factor = 1

    def prepare(self) -> None:
        self.factor = sum(p.numel() for p in self.parameters())

    def forward(self, x: torch.Tensor) -> Any:
        return self.block(x) * self.factor


def adapt(model: Any) -> None:
    model.adapts = True
    model.eval()


KINDS: list[Callable[[], Any]] = [WithGivenWeights, ByAWrapper, ByAnotherClass, Borrowing, Unbound]
KINDS += [ByTheClass, ByOperator, InAFunction, Matched, Reset]


def folded(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        return bnfx.fold(model, X, keep="module")


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_before(kind: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = randomise(kind()).double().eval()
    if isinstance(model, Reset):
        model.source = {name: value.clone() for name, value in model.block.state_dict().items()}
    same = folded(model)
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
        assert relative(same.probe(X), model.probe(X)) < 1e-12


@pytest.mark.parametrize(
    ("kind", "change"),
    [(Adapting, adapt), (Counting, Counting.eval), (Prepared, Prepared.prepare)],
)
def test_it_answers_as_before_once_it_was_changed(
    kind: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    torch.manual_seed(0)
    model = randomise(kind()).double().eval()
    same = folded(model)
    change(model)
    change(same)
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12


def test_a_block_that_nobody_opens_folds() -> None:
    same = bnfx.fold(randomise(Net()).double().eval(), X, keep="module")
    assert isinstance(same.block.bn, nn.Identity)
