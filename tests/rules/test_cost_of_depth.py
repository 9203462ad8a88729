"""Chains of folds: each number is read, and each weight kept, a fixed number of times."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes import pipeline
from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Dense, Evaluator, Source
from bnfx.passes.graph import Opaque
from bnfx.passes.rules import fold_affine_into_linear, merge_affines, merge_serial_linear
from bnfx.passes.values import SMALL, Values

READINGS = 8  # of one parameter, in all


class CountingModel(Model):
    """Counts how often each parameter is read, and the most arrays that were stored at once."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.most = 0
        self._values: Values | None = None

    def read(self, source: Source) -> Any:
        self.reads[source.name] += 1
        if self._values is not None:
            self.most = max(self.most, len(self._values._stored))
        return self.arrays[source.name]

    def run_counted(self, *rules: Any) -> None:
        self.reads.clear()
        self._values = Values(self.read, np.zeros(()))
        pipeline.run(self.graph, rules, self._values)


def end(model: Model, x: Any) -> None:
    model.like("out", Opaque(), x)


def norms(model: Model, levels: int) -> None:
    x = model.conv2d("conv", model.input("in", 2, 4, 3, 3), 4, bias=True)
    for level in range(levels):
        x = model.norm(f"norm{level}", x)
    end(model, x)


def maps(model: Model, levels: int) -> None:
    """Nothing linear stands before them."""
    x = model.like("start", Opaque(), model.input("in", 2, 4, 3, 3))
    for level in range(levels):
        x = model.norm(f"norm{level}", x)
    end(model, x)


def products(model: Model, levels: int) -> None:
    """Layers that merge, each weight larger than what is kept by its size."""
    size = int(SMALL**0.5) + 1
    x = model.input("in", 64, size)
    for level in range(levels):
        x = model.dense(f"dense{level}", x, size)
        model.arrays[f"dense{level}.weight"] /= np.float32(size**0.5)
    end(model, x)


CASES = [
    pytest.param(norms, fold_affine_into_linear.RULE, id="norms"),
    pytest.param(maps, merge_affines.RULE, id="maps"),
    pytest.param(products, merge_serial_linear.RULE, id="products"),
]


@pytest.mark.parametrize(("build", "rule"), CASES)
def test_a_chain_becomes_one(build: Any, rule: Any) -> None:
    model = Model()
    build(model, 6)
    check_same(model, rule)
    kinds = model.counts()
    assert kinds["Linear"] + kinds["Affine"] + kinds["Lowered"] == 1


@pytest.mark.parametrize("levels", [10, 80])
@pytest.mark.parametrize(("build", "rule"), CASES)
def test_each_parameter_is_read_a_few_times(build: Any, rule: Any, levels: int) -> None:
    model = CountingModel()
    build(model, levels)
    model.run_counted(rule)
    kinds = model.counts()
    assert kinds["Linear"] + kinds["Affine"] + kinds["Lowered"] == 1
    often = {name: n for name, n in model.reads.items() if not name.startswith("conv.")}
    assert often
    assert max(often.values()) <= READINGS
    assert model.reads["conv.weight"] <= 2 * levels + 2  # each fold scales it anew


@pytest.mark.parametrize("levels", [10, 80])
@pytest.mark.parametrize(("build", "rule"), CASES)
def test_the_weights_on_the_way_are_not_kept(build: Any, rule: Any, levels: int) -> None:
    model = CountingModel()
    build(model, levels)
    model.run_counted(rule)
    assert model.most <= 6


def test_long_vectors_are_kept_whatever_their_size() -> None:
    size = SMALL + 1
    reads: Counter[str] = Counter()

    def read(source: Source) -> Any:
        reads[source.name] += 1
        return np.ones(size)

    values = Values(read, np.zeros(()))
    weight = Source("weight", (size, 2), "float64")
    values._read = lambda s: np.ones((size, 2)) if s is weight else read(s)
    operator = Dense(weight, None)
    for level in range(50):
        scale, shift = (Source(f"{name}{level}", (size,), "float64") for name in ("s", "t"))
        operator = ChannelAffine(scale, shift) @ operator
        assert not list(values.refuse_operator(operator, ("float64",)))
    assert max(reads.values()) <= READINGS


def test_the_last_large_value_is_kept_while_it_is_built_on() -> None:
    computed: list[str] = []
    arrays = {name: np.full((3, 3), number) for name, number in (("a", 2.0), ("b", 3.0))}

    def read(source: Source) -> Any:
        computed.append(source.name)
        return arrays[source.name]

    a, b = (Source(name, (3, 3), "float64") for name in "ab")
    evaluate = Evaluator(read, np.zeros(()), keeps=4)
    product = a * b
    evaluate(product)
    assert np.array_equal(evaluate(product + 1.0), np.full((3, 3), 7.0))
    assert sorted(computed) == ["a", "b"]
    assert np.array_equal(evaluate(b - a), np.ones((3, 3)))  # and is let go where it is not
    evaluate(product)
    assert sorted(computed) == ["a", "a", "a", "b", "b", "b"]


def test_whether_a_map_is_computed_is_known_without_a_walk() -> None:
    """Of shared parts there are exponentially many paths."""
    base = Source("base", (4,), "float32")
    scale = computed = Source("computed", (4,), "float32", (base,))
    other = base
    for _ in range(60):
        scale, other = scale + scale, other + other
    assert BroadcastAffine.of_channels(ChannelAffine(scale, other), 1).is_computed
    assert not BroadcastAffine.of_channels(ChannelAffine(other, other), 1).is_computed
    assert scale.reads == computed.reads == (base, True)
