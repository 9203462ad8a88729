"""Into which layers of a chain a map is folded, and why it stays before the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import fold_chain, randomise, relative
from torch import nn
from torch.nn.utils import parametrizations

from bnfx.folding.modules.chain import ModuleChain
from bnfx.folding.modules.same_class import _RULES as RULES

X = torch.randn(5, 3, dtype=torch.float64)
Forward = Callable[[Any, Any], Any]


class Subclass(nn.Linear):
    """Adds nothing."""


class Own(nn.Module):
    """A layer of the user's, which is none that is known."""

    def __init__(self, run: Forward, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.bias = nn.Parameter(torch.randn(4)) if bias else None
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


class Shifted(nn.Module):
    """What was a bias has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.shift = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.w, self.shift)


def _frozen() -> nn.Module:
    layer = nn.Linear(3, 4)
    layer.weight.requires_grad_(False)
    return layer


def _plain(m: Own, x: Any) -> Any:
    return F.linear(x, m.weight, m.bias)


NORM: Callable[[], nn.Module] = lambda: nn.BatchNorm1d(4)  # noqa: E731
FOLDED: dict[str, list[Callable[[], nn.Module]]] = {
    "torch's": [lambda: nn.Linear(3, 4), NORM],
    "without a bias": [lambda: nn.Linear(3, 4, bias=False), NORM],
    "of a class that adds nothing": [lambda: Subclass(3, 4, bias=False), NORM],
    "the user's": [lambda: Own(_plain), NORM],
    "by other names": [Shifted, NORM],
    "frozen": [_frozen, NORM],
    "behind it": [lambda: nn.BatchNorm1d(3), lambda: nn.Linear(3, 4)],
    "two norms": [lambda: nn.Linear(3, 4), NORM, NORM],
    "norms around": [lambda: nn.BatchNorm1d(3), lambda: nn.Linear(3, 4), NORM],
}
STAYS: dict[str, tuple[list[Callable[[], nn.Module]], int, str]] = {
    "no room for a bias": (
        [lambda: Own(_plain, bias=False), NORM],
        1,
        "the layer that it is folded into has no room for a bias",
    ),
    "a weight that is computed": (
        [lambda: Own(lambda m, x: F.linear(x, m.weight * 2, m.bias)), NORM],
        1,
        "no layer's own",
    ),
    "a weight that is read once more": (
        [lambda: Own(lambda m, x: F.linear(x, m.weight, m.bias) + m.weight.sum()), NORM],
        1,
        "",
    ),
    "a parametrized weight": (
        [lambda: parametrizations.weight_norm(nn.Linear(3, 4)), NORM],
        1,
        "0 (ParametrizedLinear), next to it, cannot take it in place",
    ),
    "an activation between": (
        [lambda: nn.Linear(3, 4), nn.Tanh, NORM],
        2,
        "1 (Tanh), next to it, cannot take it in place",
    ),
    "activations around": (
        [lambda: nn.Linear(3, 4), nn.Tanh, NORM, nn.Sigmoid],
        2,
        "1 (Tanh) and 3 (Sigmoid), around it, cannot take it in place",
    ),
}


def fold(modules: list[Callable[[], nn.Module]]) -> tuple[Any, Any, list[str], dict[str, str]]:
    torch.manual_seed(0)
    model = randomise(nn.Sequential(*(make() for make in modules)).double()).eval()
    with torch.no_grad():
        expected = model(X)
    folded, refused = fold_chain(model, X)
    return model, expected, folded, refused


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded(name: str) -> None:
    makers = FOLDED[name]
    before = [dict(make().named_parameters()) for make in makers]
    model, expected, folded, refused = fold(makers)
    norms = [str(at) for at, make in enumerate(makers) if isinstance(make(), nn.BatchNorm1d)]
    assert folded == norms
    assert not refused
    with torch.no_grad():
        assert relative(model(X), expected) < 1e-12
    for at, given in enumerate(before):
        for key, value in model[at].named_parameters():
            frozen = name == "frozen"
            assert value.requires_grad == (not frozen)
            assert key in given or key == "bias"


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str) -> None:
    makers, at, why = STAYS[name]
    model, expected, folded, refused = fold(makers)
    assert not folded
    assert isinstance(model[at], nn.BatchNorm1d)
    assert why in refused[str(at)]
    with torch.no_grad():
        assert torch.equal(model(X), expected)


def test_one_stays_and_another_goes() -> None:
    """What cannot be folded keeps nothing else from it."""
    kinds = [lambda: nn.Linear(3, 4), NORM, nn.Tanh, NORM, nn.Sigmoid, NORM]
    model, expected, folded, refused = fold(kinds)
    assert folded == ["1"]
    assert refused.keys() == {"3", "5"}
    with torch.no_grad():
        assert relative(model(X), expected) < 1e-12


def test_shapes_that_do_not_fit() -> None:
    """They decide nothing; the model may be given others."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    chain = ModuleChain(model, ["0", "1"], RULES)
    chain.fold(None)
    chain.fold((X,))
    folded: list[str] = []
    chain.write(folded, {})
    assert folded == ["1"]
