"""Where modules stand, and which can be rewritten there, whoever runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfx.folding.modules.succession import Places


class Layer(nn.Linear):
    """One of a class of its own."""


class Calling(nn.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Hidden(nn.Linear):
    """Its code gets another weight than the one that is registered."""

    weight = property(lambda self: torch.zeros(2, 2))


class HiddenBuffer(nn.BatchNorm1d):
    running_mean = property(lambda self: torch.zeros(2))


class Holder(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.deep = Holder(nn.Linear(2, 2))
        self.kept: Any = None


class Covered(Net):
    """The class has an attribute of the name of a module."""

    @property
    def c(self) -> nn.Module:
        return self.b

    @c.setter
    def c(self, value: nn.Module) -> None:
        self._modules["c"] = value


def _scripted(m: Net) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        m.c = torch.jit.script(nn.ReLU())


def _kept(value: Callable[[Net], Any]) -> Callable[[Net], None]:
    return lambda m: setattr(m, "kept", value(m))


def _by_hand(m: Net) -> None:
    vars(m.c)["weight"] = torch.zeros(2, 2)


def _registered(kind: type[nn.Module]) -> Callable[[Net], None]:
    return lambda m: m._modules.update(c=_of(kind))


def _of(kind: type[nn.Module]) -> nn.Module:
    """One whose tensors are registered, whatever its class has of their names."""
    plain: nn.Module = nn.BatchNorm1d(2) if kind is HiddenBuffer else nn.Linear(2, 2)
    plain.__class__ = kind
    return plain


PLACES: dict[str, tuple[Callable[[Net], Any], str | None]] = {
    "as it is": (lambda m: None, None),
    "of a class of its own": (_registered(Layer), None),
    "without a bias": (lambda m: setattr(m, "c", nn.Linear(2, 2, bias=False)), None),
    "beside one that stands twice": (lambda m: setattr(m, "other", m.b), None),
    "twice": (lambda m: setattr(m, "other", m.c), "several places"),
    "within another, too": (lambda m: setattr(m.deep, "other", m.c), "several places"),
    "nowhere": (lambda m: delattr(m, "c"), "several places"),
    "TorchScript": (_scripted, "TorchScript"),
    "a hook": (lambda m: m.c.register_forward_hook(lambda *_: None), "has hooks"),
    "a hook before": (lambda m: m.c.register_forward_pre_hook(lambda *_: None), "has hooks"),
    "a call of its own": (_registered(Calling), "its own forward"),
    "a forward of its own": (lambda m: setattr(m.c, "forward", lambda x: x), "its own forward"),
    "a weight of its class": (_registered(Hidden), "hidden behind"),
    "a statistic of its class": (_registered(HiddenBuffer), "hidden behind"),
    "a weight beside its own": (_by_hand, "hidden behind"),
    "tied": (lambda m: setattr(m.b, "weight", m.c.weight), "held elsewhere"),
    "tied in part": (
        lambda m: setattr(m.b, "weight", nn.Parameter(m.c.weight.detach()[:1])),
        "held elsewhere",
    ),
    "tied to a buffer": (
        lambda m: m.norm.register_buffer("more", m.c.bias.detach()),
        "held elsewhere",
    ),
    "kept": (_kept(lambda m: m.c.weight), "held elsewhere"),
    "kept in a list": (_kept(lambda m: [m.c.bias.detach()]), "held elsewhere"),
    "another is kept": (_kept(lambda m: m.b.weight), None),
    "two of others are tied": (lambda m: setattr(m.b, "weight", m.deep.inside.weight), None),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_can_be_rewritten_in_its_place(name: str) -> None:
    change, why = PLACES[name]
    model = Net()
    change(model)
    found = Places(model.eval()).refuse("c")
    assert (why in found) if why and found else (why is found is None)


def test_what_stands_behind_an_attribute_of_its_class() -> None:
    assert "behind another attribute" in str(Places(Covered().eval()).refuse("c"))
    assert Places(Covered().eval()).refuse("b") is None

    class Counting(Net):
        @property
        def deep(self) -> Any:
            return 3  # a path that leads through it leads nowhere

        @deep.setter
        def deep(self, value: Any) -> None:
            self._modules["deep"] = value

    assert "behind another attribute" in str(Places(Counting().eval()).refuse("deep.inside"))


def test_what_is_inside_of_a_module() -> None:
    """A block is refused for a weight of a part of its."""
    model = Net()
    assert Places(model).refuse("deep") is None
    model.kept = model.deep.inside.weight
    assert "held elsewhere" in str(Places(model).refuse("deep"))
    model.kept = None
    vars(model.deep.inside)["bias"] = torch.zeros(2)
    assert "hidden behind" in str(Places(model).refuse("deep"))
    assert Places(model).refuse("c") is None
