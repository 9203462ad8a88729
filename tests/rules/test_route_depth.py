"""Routes through deep graphs: each op is met a fixed number of times, however deep they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from neutral import Model
from neutral_run import check_same

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import Dims, Identity, Select, Window
from bnfx.passes.graph import Node, Opaque
from bnfx.passes.report import Outcome
from bnfx.passes.rules import fold_affine_into_linear
from bnfx.passes.rules.move_affine import RULE
from bnfx.passes.rules.ordered import RULES

CROSSED: Counter[str] = Counter()
POSITIVE = {"gamma": [0.5, 1, 2, 3]}
MEETINGS = 10  # of an op, in all: two ways, two walks each, refused and then rewritten


@dataclass(frozen=True)
class Counted(Window):
    """A pool that counts how often a map crosses it."""

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        CROSSED["pool"] += 1
        return super().back(affine, before, after)

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        CROSSED["pool"] += 1
        return super().forward(affine, before, after)


def pool(model: Model, name: str, x: Node, by_order: bool = False) -> Node:
    return model.move(name, Counted((2, 3), by_order=by_order), x)


def chain(model: Model, x: Node, levels: int) -> Node:
    for level in range(levels):
        x = pool(model, f"pool{level}", x)
    return x


def halves(model: Model, x: Node, levels: int) -> Node:
    """``cat([maxpool(x)[:, :2], maxpool(x)[:, 2:]])``, again and again."""
    n, _, h, w = x.shape or ()
    for level in range(levels):
        parts = []
        for side in (0, 1):
            whole = pool(model, f"pool{level}.{side}", x, by_order=True)
            select = Select(1, 2 * side, 2 * side + 2)
            parts.append(model.move(f"part{level}.{side}", select, whole, n, 2, h, w))
        x = model.concat(f"cat{level}", 1, *parts)
    return x


def sums(model: Model, x: Node, levels: int) -> Node:
    """The mean of ``x`` and ``pool(x)``, again and again."""
    for level in range(levels):
        x = model.plus(f"add{level}", x, pool(model, f"pool{level}", x), 0.5, 0.5)
    return x


def shuffled(model: Model, x: Node, levels: int) -> Node:
    """The halves of one value, each with what was made of both: splits that meet again."""
    n, _, h, w = x.shape or ()
    for level in range(levels):
        x = pool(model, f"pool{level}", x)
        parts = [
            model.move(f"part{level}.{i}", Select(1, 2 * i, 2 * i + 2), x, n, 2, h, w)
            for i in (1, 0)
        ]
        x = model.concat(f"cat{level}", 1, *parts)
    return x


KINDS = {"chain": chain, "halves": halves, "sums": sums, "shuffled": shuffled}


def start(model: Model) -> Node:
    return model.input("in", 2, 4, 3, 3)


def on(model: Model, kind: str, levels: int) -> None:
    """input -> BatchNorm -> levels -> conv."""
    norm = model.norm("norm", model.like("start", Opaque(), start(model)), POSITIVE)
    last = model.conv2d("conv", KINDS[kind](model, norm, levels), 3)
    model.like("out", Opaque(), last)


def back(model: Model, kind: str, levels: int) -> None:
    """conv -> levels -> BatchNorm -> reader."""
    last = KINDS[kind](model, model.conv2d("conv", start(model), 4), levels)
    model.like("out", Opaque(), model.norm("norm", last, POSITIVE))


def functions(model: Model) -> dict[str, Any]:
    """The pools keep sizes."""

    def mean(x: Any) -> Any:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def largest(x: Any) -> Any:
        return F.max_pool2d(x, 3, 1, 1)

    pools = {n.name: n.role.movement for n in model.graph if n.name.startswith("pool")}
    return {name: largest if movement.by_order else mean for name, movement in pools.items()}


@pytest.mark.parametrize("levels", [1, 8, 30])
@pytest.mark.parametrize(
    ("way", "kind"),
    [(on, kind) for kind in KINDS] + [(back, kind) for kind in ("chain", "sums", "shuffled")],
)
def test_folded_graphs_are_the_same(model: Model, way: Any, kind: str, levels: int) -> None:
    way(model, kind, levels)
    report = check_same(model, RULE, **functions(model))
    assert report.count(Outcome.FOLDED) == 1
    assert model.counts()["Affine"] == 0
    assert not model.has_border()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("levels", [10, 1000])
@pytest.mark.parametrize(
    ("way", "kind"),
    [(on, kind) for kind in KINDS] + [(back, kind) for kind in ("chain", "sums", "shuffled")],
)
def test_each_op_is_met_a_few_times(model: Model, way: Any, kind: str, levels: int) -> None:
    way(model, kind, levels)
    pools = sum(node.name.startswith("pool") for node in model.graph)
    CROSSED.clear()
    report = model.run(RULE)
    assert report.count(Outcome.FOLDED) == 1
    assert levels <= pools <= CROSSED["pool"] <= MEETINGS * pools


@pytest.mark.parametrize("levels", [10, 1000])
def test_a_blocked_way_is_met_as_seldom(model: Model, levels: int) -> None:
    """Two values of the nested halves want to become other ones."""
    back(model, "halves", levels)
    CROSSED.clear()
    codes = {refusal.code.value for refusal in model.reasons(RULE, _norm(model))}
    assert codes == {"other-readers", "no-linear-after"}
    assert CROSSED["pool"] <= MEETINGS * 2 * levels


def _norm(model: Model) -> Node:
    return next(node for node in model.graph if node.name == "norm")


def test_a_thousand_maps_become_one(model: Model) -> None:
    """Of so many folds the weight is one product of scales, which no walk has to climb down."""
    x = model.conv2d("conv", start(model), 4, bias=True)
    for level in range(1000):
        x = model.arithmetic(f"map{level}", x, np.array([[1.001, -1, 0.999, -1]]), 0.5)
    model.like("out", Opaque(), x)
    report = check_same(model, fold_affine_into_linear.RULE)
    assert report.count(Outcome.FOLDED, "affine") == 1000
    assert len(model.graph) == 4


def test_all_rules_come_to_an_end_in_a_deep_graph(model: Model) -> None:
    x = model.conv2d("conv", start(model), 4)
    for level in range(1100):
        x = model.move(f"drop{level}", Identity(), x)
    model.like("out", Opaque(), model.norm("norm", x))
    assert check_same(model, *RULES).count(Outcome.FOLDED) == 1
