"""Parts whose names do not lead to them: a graph must not hold others in their place."""

from __future__ import annotations

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.errors import CaptureError

KEEPS = ("auto", "graph")


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))


class Dotted(nn.Module):
    """``c.0`` and ``c.1`` are not those of ``c``."""

    def __init__(self) -> None:
        super().__init__()
        self.c, others = block(), block()
        self._modules["c.0"], self._modules["c.1"] = others[0], others[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._modules["c.1"](self._modules["c.0"](x))
        return y + self.c(x)


class Nameless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._modules[""] = block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._modules[""](x)


class DottedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = block()
        self._parameters["c.0.bias"] = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(x) * self._parameters["c.0.bias"]


class Hidden(nn.Module):
    """A property gives another module than the one that is registered under its name."""

    def __init__(self) -> None:
        super().__init__()
        self._modules["c"], self._modules["d"] = block(), block()

    @property
    def c(self) -> nn.Module:
        return self.d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._modules["c"](x) - 2 * self.d(x)


def prepared(kind: type[nn.Module]) -> nn.Module:
    return randomise(kind()).double().eval()


X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("inputs", [(), (X,)], ids=["no inputs", "inputs"])
@pytest.mark.parametrize("kind", [Dotted, Nameless, DottedWeight])
def test_a_name_that_is_no_name_is_refused(
    kind: type[nn.Module], inputs: tuple[torch.Tensor, ...], keep: str
) -> None:
    with pytest.raises(CaptureError, match="for the name of a part"):
        bnfx.fold(prepared(kind), *inputs, keep=keep)


@pytest.mark.parametrize("keep", KEEPS)
def test_what_is_hidden_is_no_part_of_a_trace(keep: str) -> None:
    with pytest.raises(CaptureError, match="c is hidden behind another attribute"):
        bnfx.fold(prepared(Hidden), keep=keep)


@pytest.mark.filterwarnings("ignore::bnfx.errors.FoldWarning")  # some stay as they are
@pytest.mark.parametrize("kind", [Dotted, Nameless, DottedWeight, Hidden])
def test_who_needs_no_names_folds_it(kind: type[nn.Module]) -> None:
    model = prepared(kind)
    expected = model(X)
    vouched = bnfx.fold(model, X, keep="module", assume="example")
    torch.testing.assert_close(vouched(X), expected)
    torch.testing.assert_close(
        torch.compile(model, backend="bnfx", options={"inner": "eager"})(X), expected
    )


def test_an_example_shows_what_is_hidden() -> None:
    model = prepared(Hidden)
    expected = model(X)
    torch.testing.assert_close(bnfx.fold(model, X, keep="graph")(X), expected)


class Crossed(nn.Module):
    """Both convolutions go by one path, as do both BatchNorms, and each goes to the other's."""

    def __init__(self) -> None:
        super().__init__()
        others = block()
        self._modules["c.0"], self._modules["c.1"] = others[0], others[1]
        self.c = block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._modules["c.1"](self.c[0](x))
        return y - self.c[1](self._modules["c.0"](x))


@pytest.mark.filterwarnings("ignore::bnfx.errors.FoldWarning")
def test_paths_that_stand_for_two_modules_pair_nothing() -> None:
    model = prepared(Crossed)
    vouched = bnfx.fold(model, X, keep="module", assume="example", verify=False)
    torch.testing.assert_close(vouched(X), model(X))
