"""The battery in NumPy: each graph, folded, gives the numbers that it gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax.graphs import Case, Expr, Make, count, inputs_of, pair, relative
from relax.test_battery import BOUNDS, CASES
from tvm_random.relax_writer import run

from bnfx.tvm.relax import FoldBatchNorm

# What the interpreter does not know, `test_battery` builds.
UNKNOWN = (AssertionError, KeyError, TypeError, ValueError)


def _arrays(value: Any) -> list[Any]:
    return [array for part in value for array in _arrays(part)] if type(value) is tuple else [value]


def _computed(case: Case) -> tuple[Any, list[Any], list[Any]] | None:
    module = case.module()
    inputs = inputs_of(module)
    try:
        return module, inputs, _arrays(run(module, *(np.copy(x) for x in inputs)))
    except UNKNOWN:
        return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_folded_is_unfolded(case: Case) -> None:
    known = _computed(case)
    if known is None:
        return
    module, inputs, theirs = known
    mine = _arrays(run(FoldBatchNorm()(module), *inputs))
    assert [array.shape for array in mine] == [array.shape for array in theirs]
    assert relative(mine, theirs) < BOUNDS[case.dtype]


def test_maps_without_constants() -> None:
    """Of numbers alone: ``-(-x)``, ``-x - x``."""

    def build(make: Make) -> Expr:
        x = make.input(2, 3)
        one = make.call("negative", make.call("negative", x))
        y = make.call("sigmoid", x)
        return pair(one, make.call("subtract", make.call("negative", y), y))

    module = Make(0).module(build)
    folded = FoldBatchNorm()(module)
    assert count(folded)["negative"] == count(folded)["subtract"] == 0
    inputs = inputs_of(module)
    assert relative(_arrays(run(folded, *inputs)), _arrays(run(module, *inputs))) < 1e-15


def test_most_are_known() -> None:
    sample = CASES[::8]
    assert sum(_computed(case) is not None for case in sample) > len(sample) * 2 // 3
