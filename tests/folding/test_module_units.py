"""Modules that are an affine map: which are, what is left of them, and what stays.

Each unit stands behind a convolution, and is traced as part of that chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from support import fold_chain, randomise, relative
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from bnfx.folding.example_shapes import describe_shapes
from bnfx.folding.modules.affine_modules import (
    RankChecked,
    Unit,
    find_units,
    is_opaque,
    left_of,
    traced_chain,
)
from bnfx.passes.fx.lift import lift

X = torch.randn(2, 3, 5, 5, dtype=torch.float64)


class Own(nn.Module):
    """Numbers, two children, and a forward that is given."""

    def __init__(self, run: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.register_buffer("s", torch.tensor([1.5, -2.0, 0.5, 3.0], dtype=torch.float64))
        self.register_buffer("t", torch.tensor([0.5, 1.0, -1.0, 2.0], dtype=torch.float64))
        self.act, self.drop = nn.LeakyReLU(0.1), nn.Dropout()
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(self, x)

    def scaled(self, x: Any) -> Any:
        return x * self.s.reshape(1, -1, 1, 1)

    def mapped(self, x: Any) -> Any:
        return self.scaled(x) + self.t.reshape(1, -1, 1, 1)


def _checked(m: Own, x: Any) -> Any:
    torch._assert(x.dim() == 4, "rank")
    torch._assert(x.ndim == 4, "rank")
    return m.act(m.mapped(x))


def _computed(m: Own, x: Any) -> Any:
    scale = (m.s.abs() + 1).rsqrt()
    return m.drop(m.act(x * scale.reshape(1, -1, 1, 1)))


def _kept(m: Own, x: Any) -> Any:
    y = m.mapped(x)
    return y + m.act(y)


def _sized(m: Own, x: Any) -> Any:
    return m.mapped(x) * x.size(0)


# What a unit runs behind its map.
UNITS: dict[str, tuple[Callable[[Any, Any], Any], tuple[str, ...]]] = {
    "a map": (lambda m, x: m.mapped(x), ()),
    "a scale": (lambda m, x: m.scaled(x), ()),
    "a map and a child": (lambda m, x: m.act(m.mapped(x)), ("act",)),
    "a map and two": (lambda m, x: m.drop(m.act(m.mapped(x))), ("act", "drop")),
    "a check of the rank": (_checked, ("act",)),
    "numbers that are computed": (_computed, ("act", "drop")),
    "twice": (lambda m, x: m.mapped(m.scaled(x)), ()),
    "what torch calls": (lambda m, x: F.batch_norm(x, m.t, m.s.abs()), ()),
}
NONE: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a child first": (lambda m, x: m.mapped(m.act(x)), "does more than the map"),
    "an op first": (lambda m, x: m.mapped(x.abs()), "does more than the map"),
    "an op behind": (lambda m, x: m.mapped(x).abs(), "does more than the map"),
    "an op between": (lambda m, x: m.act(m.mapped(x).abs()), "does more than the map"),
    "another map behind a child": (
        lambda m, x: m.scaled(m.act(m.mapped(x))),
        "has children in front of the map",
    ),
    "a sum with itself": (_kept, "does more than the map"),
    "the input again": (lambda m, x: m.mapped(x) + x, "does more than the map"),
    "a size": (_sized, "does more than the map"),
    "a child twice": (lambda m, x: m.act(m.drop(m.act(m.mapped(x)))), "runs a child twice"),
    "two values": (lambda m, x: (lambda y: (y, m.act(y)))(m.mapped(x)), "gives more than the map"),
    "the input, too": (lambda m, x: (m.mapped(x), x), "in a container"),
    "a tuple": (lambda m, x: (m.mapped(x),), "in a container"),
    "a list": (lambda m, x: [m.act(m.mapped(x))], "in a container"),
    "a dict": (lambda m, x: {"y": m.mapped(x)}, "in a container"),
    "a number of its own, too": (
        lambda m, x: (m.mapped(x), m.s),
        "gives more than the map",
    ),
}


def units(*modules: nn.Module, shapes: bool = True) -> dict[str, Unit | str]:
    traced = traced_chain([each.eval() for each in modules])
    if shapes:
        describe_shapes(traced, (X,))
    return find_units(traced, lift(traced, {}, {}, {}))


def convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1).double()


def fold(*modules: nn.Module) -> tuple[nn.Sequential, list[str], dict[str, str]]:
    """The chain, folded on its own modules, as with an example."""
    model = nn.Sequential(*modules).double().eval()
    return (model, *fold_chain(model, X))


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_leaves_what_runs_behind_its_map(name: str) -> None:
    run, children = UNITS[name]
    unit = Own(run).eval()
    with torch.no_grad():
        expected = unit(convolution()(X))
        model, folded, _ = fold(convolution(), unit)
        assert folded == ["1"]
        assert relative(model(X), expected) < 1e-12
    left = [each for each in model[1].children() if not isinstance(each, RankChecked)]
    assert left == [getattr(unit, child) for child in children]
    with pytest.raises(AssertionError, match="4 dimensions"):
        model(X[0])


@pytest.mark.parametrize("name", NONE)
def test_what_is_more_than_a_map_stays(name: str) -> None:
    run, why = NONE[name]
    unit = Own(run)
    found = units(convolution(), unit)["1"]
    assert isinstance(found, str)
    assert why in found
    model, folded, refused = fold(convolution(), unit)
    assert model[1] is unit
    assert not folded
    assert refused["1"] == found


def test_arithmetic_is_no_map_while_its_rank_is_not_known() -> None:
    assert units(convolution(), FrozenBatchNorm2d(4), shapes=False) == {}
    assert isinstance(units(convolution(), FrozenBatchNorm2d(4))["1"], Unit)


@pytest.mark.parametrize(
    ("norm", "rank"),
    [(nn.BatchNorm2d(4), None), (nn.SyncBatchNorm(4), 4), (FrozenBatchNorm2d(4), 4)],
)
def test_a_norm_that_takes_any_rank_leaves_a_check(norm: nn.Module, rank: int | None) -> None:
    """BatchNorm2d refuses other ranks; so does a Conv2d, but for one sample without its batch."""
    unit = units(convolution(), norm)["1"]
    assert isinstance(unit, Unit)
    assert unit.rank == rank
    left = left_of(norm, unit)
    assert type(left) is (nn.Identity if rank is None else RankChecked)
    assert "rank=4" in repr(left) or rank is None


def test_a_norm_without_numbers_inside_of_a_unit() -> None:
    """Both are maps, and both go."""
    unit = Own(lambda m, x: m.act(m.mapped(x)))
    unit.act = nn.BatchNorm2d(4, affine=False)
    unit.act.running_var.uniform_(1, 2)
    unit = unit.double().eval()
    with torch.no_grad():
        expected = unit(convolution()(X))
        model, folded, _ = fold(convolution(), unit)
        assert set(folded) == {"1", "1.act"}
        assert relative(model(X), expected) < 1e-12


def test_a_map_of_the_chains_own() -> None:
    """No module has it, so none can lose it."""
    traced = traced_chain([convolution()])
    graph = traced.graph
    (conv,) = graph.find_nodes(op="call_module")
    with graph.inserting_after(conv):
        doubled = graph.call_function(torch.mul, (conv, 2.0))
    conv.replace_all_uses_with(doubled, lambda user: user is not doubled)
    describe_shapes(traced, (X,))
    (why,) = find_units(traced, lift(traced, {}, {}, {})).values()
    assert "by the model itself" in str(why)


class Block(nn.Module):
    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        self.inside = nn.ModuleList(children)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _looking(m: Own, x: Any) -> Any:
    return m.mapped(x) if x.sum() > 0 else x


OPAQUE: dict[str, tuple[nn.Module, bool]] = {
    "a block": (Block(nn.Conv2d(1, 1, 1)), True),
    "a block of what has no weights": (Block(nn.ReLU()), True),
    "a module without layers": (type("Bare", (nn.Identity,), {"__module__": "mine"})(), False),
    "torch's own": (nn.Sequential(nn.ReLU()), False),
    "a unit": (Own(lambda m, x: m.act(m.mapped(x))), False),
    "what looks at its input": (Own(_looking), True),
    "timm's, with an activation": (timm.layers.BatchNormAct2d(4), False),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_nothing_crosses(name: str) -> None:
    module, opaque = OPAQUE[name]
    assert is_opaque(module.eval()) == opaque


def test_numbers_are_those_of_the_model() -> None:
    """A random BatchNorm with an activation behind it, and a convolution that follows."""
    model = [convolution(), timm.layers.BatchNormAct2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    whole = randomise(nn.Sequential(*model).double()).eval()
    with torch.no_grad():
        expected = whole(X)
        folded, paths, _ = fold(*whole)
        assert paths == ["1", "3"]
        assert relative(folded(X), expected) < 1e-12
