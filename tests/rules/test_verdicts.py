"""What reports say of the rules together: reasons, counts, rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from neutral import Model

from bnfx.passes import pipeline
from bnfx.passes.crossing import Homogeneous
from bnfx.passes.graph import Graph, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules import (
    fold_affine_into_linear,
    lower_batch_norm,
    merge_affines,
    merge_parallel_linear,
)
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Change
from bnfx.passes.values import Values

FOLD, MERGE, LOWER = fold_affine_into_linear.RULE, merge_affines.RULE, lower_batch_norm.RULE
PARALLEL = merge_parallel_linear.RULE


def test_a_blocked_way_is_told_instead_of_the_one_step_that_began_it(model: Model) -> None:
    """``no-linear-before`` of the first rule says less than how far move-affine got."""
    relu = model.move("relu", Homogeneous(), model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3))
    model.like("out", Opaque(), model.norm("norm", relu))
    (verdict,) = model.run(*RULES).verdicts
    codes = [refusal.code for refusal in verdict.refusals]
    assert codes == [Code.NONZERO_SHIFT]
    assert verdict.outcome is Outcome.LOWERED


def test_without_move_affine_the_one_step_is_told(model: Model) -> None:
    relu = model.move("relu", Homogeneous(), model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3))
    model.like("out", Opaque(), model.norm("norm", relu))
    (verdict,) = model.run(FOLD, LOWER).verdicts
    assert verdict.refusals == (Refusal(Code.NO_LINEAR_BEFORE, "its input is relu"),)


def test_rewrites_and_kinds_are_counted(model: Model) -> None:
    x = model.input("in", 2, 3, 4, 4)
    node = model.arithmetic("times", model.norm("norm", model.conv2d("conv", x, 3)), 2.0)
    model.like("out", Opaque(), node)
    report = model.run(*RULES)
    assert report.rewrites == {"fold-affine-into-linear": 2}
    assert (report.count(Outcome.FOLDED), report.count(Outcome.FOLDED, "affine")) == (1, 1)


def test_the_sites_of_absorbed_nodes_share_the_outcome(model: Model) -> None:
    x = model.input("in", 2, 3, 4, 4)
    norm = model.norm("norm", x)
    add = model.plus("add", model.conv2d("conv", x, 3, 3, padding=1), norm)
    model.like("out", Opaque(), add)
    (verdict,) = model.run(PARALLEL).verdicts
    assert (verdict.site.name, verdict.outcome, verdict.target) == ("norm", Outcome.FOLDED, "conv")
    assert verdict.error is not None, "it is carried out by what it went into"


@pytest.mark.parametrize("stored", ["float32", "float16", "float64"])
def test_a_verdict_says_what_rounding_costs(model: Model, stored: str) -> None:
    conv = model.conv("conv", model.x, dtype=stored)
    model.batch_norm("norm", conv, dtype=stored)
    weight = conv.role.operator.weight
    (verdict,) = model.run(FOLD).verdicts
    if stored == "float64":
        assert verdict.error == 2.0**-53
        return
    errors = []
    for expression in (conv.role.operator.weight, conv.role.operator.bias):
        exact = model.evaluate(expression)
        rows = np.abs(exact.astype(stored) - exact).reshape(3, -1)
        errors.append((rows.max(1) / np.abs(exact.reshape(3, -1)).max(1)).max())
    assert verdict.error == max(errors)
    assert weight != conv.role.operator.weight


def test_rounding_is_not_told_without_numbers(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x))
    (verdict,) = model.run(FOLD, numbers=False).verdicts
    assert verdict.error is None


def test_rounding_is_told_of_what_was_merged_and_lowered(model: Model) -> None:
    model.batch_norm("second", model.batch_norm("first", model.x))
    errors = [verdict.error for verdict in model.run(MERGE, LOWER).verdicts]
    assert errors[0] == errors[1]
    assert 0 < errors[0] <= 2.0**-24


def test_rounding_is_not_told_of_what_was_kept(model: Model) -> None:
    model.batch_norm("norm", model.x)
    assert model.refused_by().error is None


def test_rounding_is_not_told_where_it_is_not_measured(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x))
    values = Values(lambda source: model.arrays[source.name], np.zeros(()), measured=False)
    (verdict,) = pipeline.run(model.graph, [FOLD], values).verdicts
    assert (verdict.outcome, verdict.error) == (Outcome.FOLDED, None)


def test_rounding_is_not_told_of_what_a_rule_says_is_kept(model: Model) -> None:
    """Whatever the rule did to the node."""
    model.batch_norm("norm", model.x)

    def lower(graph: Graph, node: Node, values: Values | None) -> Change:
        return replace(LOWER.rewrite(graph, node, values), outcome=Outcome.KEPT)

    (verdict,) = model.run(replace(LOWER, rewrite=lower)).verdicts
    assert (verdict.outcome, verdict.error) == (Outcome.KEPT, None)
