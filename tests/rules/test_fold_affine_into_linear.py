"""affine(L x) -> L' x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from numpy.testing import assert_allclose, assert_array_equal

from bnfx.passes.algebra import BroadcastAffine, Conv, ConvTranspose, Dense, LinearOperator, Source
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Linear, Move, Opaque
from bnfx.passes.report import Outcome
from bnfx.passes.rules.fold_affine_into_linear import RULE


def test_golden(model: Model) -> None:
    conv = model.conv("conv", model.x)
    norm = model.batch_norm("norm", conv)
    relu = model.add("relu", Opaque(), norm)
    operator, affine = conv.role.operator, norm.role.map.along(1)
    assert model.counts() == {"Opaque": 2, "Linear": 1, "Affine": 1}

    (verdict,) = model.run(RULE).verdicts

    assert model.counts() == {"Opaque": 2, "Linear": 1}
    assert [node.name for node in model.graph] == ["x", "conv", "relu"]
    assert conv.role == Linear(affine @ operator, "float32")
    assert (relu.inputs, list(conv.users)) == ([conv], [relu])
    assert (verdict.site.name, verdict.outcome, verdict.target) == ("norm", Outcome.FOLDED, "conv")
    assert verdict.refusals == ()


def test_second_run_changes_nothing(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x))
    model.run(RULE)
    before = model.picture()
    model.run(RULE)
    assert model.picture() == before


def test_without_numbers_it_folds_all_the_same(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x))
    model.run(RULE, numbers=False)
    assert model.counts() == {"Opaque": 1, "Linear": 1}


def conv(weight: Source, bias: Source | None, groups: int = 1) -> Conv:
    rank = len(weight.shape) - 2
    return Conv(weight, bias, (2,) * rank, ((1, 0),) * rank, (2,) * rank, groups)


def transposed(weight: Source, bias: Source | None, groups: int = 1) -> ConvTranspose:
    rank = len(weight.shape) - 2
    return ConvTranspose(
        weight, bias, (2,) * rank, ((1, 0),) * rank, (1,) * rank, (2,) * rank, groups
    )


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "weight_shape", "options", "input_shape"),
    [
        (Dense, (4, 3), {}, (3,)),
        (conv, (4, 3, 2), {}, (3, 5)),
        (conv, (4, 2, 3, 2), {"groups": 2}, (4, 5, 4)),
        (conv, (4, 1, 2, 2), {"groups": 4}, (4, 4, 4)),
        (conv, (2, 3, 2, 1, 2), {}, (3, 3, 2, 3)),
        (transposed, (4, 4, 2), {}, (4, 3)),
        (transposed, (4, 2, 3, 2), {"groups": 2}, (4, 2, 3)),
        (transposed, (6, 2, 2, 2), {"groups": 3}, (6, 2, 2)),
        (transposed, (4, 1, 2, 2), {"groups": 4}, (4, 2, 2)),
        (transposed, (3, 2, 2, 1, 2), {}, (3, 2, 2, 2)),
    ],
)
def test_folded_operator_is_the_scaled_matrix(
    model: Model, kind: Any, weight_shape: Any, options: Any, input_shape: Any, with_bias: bool
) -> None:
    weight = model.random_source("weight", *weight_shape)
    channels = kind(weight, None, **options).out_channels
    bias = model.random_source("bias", channels) if with_bias else None
    operator: LinearOperator = kind(weight, bias, **options)
    linear = model.linear("linear", operator, model.x, rank=len(input_shape) + 1)
    norm = model.batch_norm("norm", linear, channels=channels)
    model.arrays["norm.gamma"][0] = 0
    matrix, shift = operator.dense(input_shape, model.evaluate)
    mean, var, gamma, beta = (
        np.repeat(np.float64(model.arrays[f"norm.{part}"]), len(matrix) // channels)
        for part in ("mean", "var", "gamma", "beta")
    )

    (verdict,) = model.run(RULE).verdicts

    assert verdict.outcome is Outcome.FOLDED
    assert norm not in model.graph
    folded_matrix, folded_shift = linear.role.operator.dense(input_shape, model.evaluate)
    scale = gamma / np.sqrt(var + 1e-5)
    assert_allclose(folded_matrix, scale[:, None] * matrix, rtol=1e-14, atol=0)
    assert_allclose(folded_shift, scale * (shift - mean) + beta, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_weight_is_rounded_once(model: Model, dtype: str) -> None:
    conv = model.conv("conv", model.x, dtype=dtype)
    model.batch_norm("norm", conv, dtype=dtype)
    model.run(RULE)
    weight = conv.role.operator.weight
    exact = model.evaluate(weight)
    assert exact.dtype == np.float64
    assert_array_equal(model.values.stored(weight, dtype), exact.astype(dtype))


def test_a_gamma_of_zero_makes_the_channel_constant(model: Model) -> None:
    conv = model.conv("conv", model.x)
    model.batch_norm("norm", conv, statistics={"gamma": [0, -1, 1], "beta": [5, 6, 7]})
    model.run(RULE)
    matrix, shift = conv.role.operator.dense((3, 1, 1), model.evaluate)
    assert_array_equal(matrix[0], 0)
    assert shift[0] == 5


def test_reader_of_the_shape_alone_does_not_count(model: Model) -> None:
    conv = model.conv("conv", model.x)
    size = model.add("size", Opaque(reads_data=False), conv)
    norm = model.batch_norm("norm", conv)
    add = model.add("add", Opaque(), size, norm)
    model.run(RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}
    assert size.inputs == [conv]
    assert add.inputs == [size, conv]


def test_a_lowered_map_folds_too(model: Model) -> None:
    norm = model.batch_norm("norm", model.conv("conv", model.x))
    norm.role = Affine(norm.role.map, lowered=True)
    (verdict,) = model.run(RULE).verdicts
    assert verdict.outcome is Outcome.FOLDED


def test_a_scalar_map_folds_on_the_right_axis_only(model: Model) -> None:
    conv = model.conv("conv", model.x)
    twice = BroadcastAffine(model.source("two", 2.0), model.source("zero", 0.0))
    model.add("twice", Affine(twice), conv)
    weight = model.arrays["conv.weight"]
    model.run(RULE)
    assert_array_equal(model.evaluate(conv.role.operator.weight), 2 * weight)


def test_what_lays_its_output_out_leaves_an_op_that_does(model: Model) -> None:
    norm = model.batch_norm("norm", model.conv("conv", model.x), lays_out=True)
    (verdict,) = model.run(RULE).verdicts
    assert (verdict.outcome, verdict.target) == (Outcome.FOLDED, "conv")
    assert norm.role == Move(Identity(contiguous=True))
    assert norm in model.graph


@pytest.mark.parametrize("known", ["conv", "norm"])
def test_one_known_rank_is_enough(model: Model, known: str) -> None:
    rank = {"conv": None, "norm": None, known: 4}
    model.batch_norm("norm", model.conv("conv", model.x, rank=rank["conv"]), rank=rank["norm"])
    model.run(RULE)
    assert model.counts() == {"Opaque": 1, "Linear": 1}
