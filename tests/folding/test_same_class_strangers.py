"""Who may run a layer without its BatchNorm: whoever could, keeps the fold from being done."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import randomise, relative, vouched
from torch import nn

import bnfx

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
NAME = "conv"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args)


class ByGetattr(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, "conv")(x)  # noqa: B009


class InTurnAndAlone(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = self.bn(y)
        return getattr(self, "conv")(x)  # noqa: B009


class WithoutGradients(Block):
    @torch.no_grad()
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class InInference(Block):
    @torch.inference_mode()
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Wrapped(Block):
    @wrapped
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Bare(Block):
    @bare
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Cached(Block):
    @functools.cached_property
    def alone(self) -> Any:
        return self.conv(X)

    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.alone


class Partial(Block):
    def _run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    probe = functools.partialmethod(_run, "")


class FirstChild(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        for child in self.children():
            return child(x)
        raise AssertionError


class ListedChild(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return list(self.children())[0](x)  # noqa: RUF015


class NamedChild(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return dict(self.named_children())[NAME](x)


class Register(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self._modules[NAME](x)


class Submodule(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(NAME)(x)


class Getter(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return operator.attrgetter(NAME)(self)(x)


class Variables(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return vars(self)["_modules"][NAME](x)


class ByArgument(Block):
    def probe(self, x: torch.Tensor, name: str = NAME) -> torch.Tensor:
        return getattr(self, name)(x)


class ByGlobal(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, NAME)(x)


class BySuffix(Block):
    def probe(self, x: torch.Tensor, name: str = "con") -> torch.Tensor:
        return getattr(self, f"{name}v")(x)


class InAList(Block):
    def __init__(self) -> None:
        super().__init__()
        self.listed = [self.conv]

    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.listed[0](x)


class AsAMethod(Block):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.conv.forward

    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


class Weight(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.conv.weight)


class Statistics(Block):
    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn.running_mean.sum()


KINDS = [
    ByGetattr, InTurnAndAlone, WithoutGradients, InInference, Wrapped, Bare, Cached, Partial,
    FirstChild, ListedChild, NamedChild, Register, Submodule, Getter, Variables, ByArgument,
    ByGlobal, BySuffix, InAList, AsAMethod, Weight, Statistics,
]  # fmt: skip


def folded(model: nn.Module, keep: str = "module") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        return bnfx.fold(model, X, keep=keep)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_another_method(kind: type[Any]) -> None:
    model = randomise(kind().double()).eval()
    same = folded(model)
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
        expected = model.probe(X)
        assert torch.allclose(same.probe(X), expected, rtol=1e-12, atol=1e-12)


class Usual(Block):
    """Methods that most models have, and that run nothing."""

    def probe(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.conv.weight.dtype).to(self.conv.weight.device)

    def zero_init_last(self) -> None:
        if getattr(self.bn, "weight", None) is not None:
            nn.init.zeros_(self.bn.weight)

    def freeze(self) -> None:
        self.conv.weight.requires_grad_(False)
        for module in self.modules():
            module.eval()

    @property
    def channels(self) -> int:
        return self.conv.out_channels

    @torch.no_grad()
    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = self.bn(x)
        return x.mean()


def test_what_most_models_have_is_no_obstacle() -> None:
    model = randomise(Usual().double()).eval()
    same = vouched(model, X)
    assert type(same) is Usual
    assert type(same.bn) is nn.Identity
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
        assert relative(same.embed(X) * X, model.embed(X) * X) < 1e-12


def big(x: torch.Tensor) -> bool:
    """Control flow on data, so that the model is traced in parts."""
    return bool(x.sum() > 1e9)


def _parent(forward: Callable[[Any, torch.Tensor], Any]) -> type[nn.Module]:
    """A class of its own, since what is read are the methods of classes."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.named = Block(), nn.ModuleDict({"b": Block()})
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    One.forward = forward
    return One


def conv_of_a_block(self: Any, x: torch.Tensor) -> Any:
    return self.block(x) if big(x) else self.block.conv(x)


def both(self: Any, x: torch.Tensor) -> Any:
    y = self.block(x)
    return y * 2 if big(x) else y + self.block.conv(x)


def layer_by_layer(self: Any, x: torch.Tensor) -> Any:
    out = x * 0 if big(x) else None
    for layer in self.layers:
        x = layer(x)
        out = x.sum() if out is None else out + x.sum()
    return out + x


def indexed(self: Any, x: torch.Tensor) -> Any:
    y = self.layers[0](x)
    return self.layers[1](y if big(x) else y.relu())


def children(self: Any, x: torch.Tensor) -> Any:
    conv, bn = self.block.children()
    y = conv(x)
    return bn(y if big(x) else y * y)


def of_a_dictionary(self: Any, x: torch.Tensor) -> Any:
    return self.named["b"](x) if big(x) else self.named["b"].conv(x)


def its_weight(self: Any, x: torch.Tensor) -> Any:
    return self.block(x) if big(x) else F.conv2d(x, self.block.conv.weight)


def a_sum_of_its_weight(self: Any, x: torch.Tensor) -> Any:
    y = self.block(x)
    return y if big(x) else y + self.block.conv.weight.sum()


def whole_blocks(self: Any, x: torch.Tensor) -> Any:
    y = self.block(x) + self.layers(x) + self.named["b"](x)
    return -y if big(x) else y


PARENTS = [
    conv_of_a_block, both, layer_by_layer, indexed, children, of_a_dictionary, its_weight,
    a_sum_of_its_weight, whole_blocks,
]  # fmt: skip


@pytest.mark.one_in(4)
@pytest.mark.parametrize("keep", ["auto", "module"])
@pytest.mark.parametrize("forward", PARENTS, ids=lambda forward: forward.__name__)
def test_a_parent_that_cannot_be_traced(
    forward: Callable[[Any, torch.Tensor], Any], keep: str
) -> None:
    model = randomise(_parent(forward)().double()).eval()
    try:
        same = folded(model, keep)
    except bnfx.CaptureError:
        assert forward is not whole_blocks, "nothing could be folded"
        return
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
    if forward is whole_blocks:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in same.modules())


class Listed(nn.Module):
    """Containers of a layer and its BatchNorm, in a list."""

    def __init__(self) -> None:
        super().__init__()
        pairs = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
        self.pairs = nn.ModuleList(pairs)


class RunsThemWhole(Listed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, pair in enumerate(self.pairs):
            x = pair(x) if number or not big(x) else x
        return x


class TakesThemApart(Listed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in self.pairs:
            x = conv(x)
            x = norm(x if big(x) else x.relu())
        return x


class LoopsTwice(Listed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for pair in self.pairs:
            for layer in pair:
                x = layer(x) if big(x) else layer(x).relu()
        return x


@pytest.mark.parametrize("kind", [RunsThemWhole, TakesThemApart, LoopsTwice])
def test_containers_in_a_list(kind: type[nn.Module]) -> None:
    model = randomise(kind().double()).eval()
    try:
        same = folded(model)
    except bnfx.CaptureError:
        assert kind is not RunsThemWhole
        return
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
    left = sum(isinstance(module, nn.BatchNorm2d) for module in same.modules())
    assert left == (0 if kind is RunsThemWhole else 2)
