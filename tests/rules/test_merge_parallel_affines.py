"""affine x + affine x -> affine x."""

from __future__ import annotations

from typing import Any

import pytest
from neutral import Model
from numpy.testing import assert_allclose

from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Node, Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.report import Outcome
from bnfx.passes.rules.merge_parallel_affines import RULE, match

DIMS = (2, 3, 4, 4)


def _x(model: Model, **fields: Any) -> Node:
    return model.input("input", *DIMS, **fields)


def _codes(model: Model, node: Node) -> set[Code]:
    return {refusal.code for refusal in RULE.refuse(node, None)}


def test_golden(model: Model) -> None:
    x = _x(model)
    one, other = model.norm("one", x), model.norm("other", x)
    maps = one.role.map, other.role.map
    total = model.plus("sum", one, other, 1.0, -2.0)
    relu = model.like("relu", Opaque(), total)

    verdicts = model.run(RULE).verdicts

    assert [node.name for node in model.graph] == ["x", "input", "one", "relu"]
    assert isinstance(one.role, Affine)
    assert one.role.lowered
    assert relu.inputs == [one]
    assert [(v.site.name, v.outcome, v.target) for v in verdicts] == [
        ("one", Outcome.LOWERED, ""),
        ("other", Outcome.MERGED, "one"),
    ]
    for side in ("scale", "shift"):
        first, second = (model.evaluate(getattr(each, side)) for each in maps)
        assert_allclose(model.evaluate(getattr(one.role.map, side)), first - 2 * second, 1e-13)


@pytest.mark.parametrize("first", [True, False])
def test_beside_the_input_itself(model: Model, first: bool) -> None:
    """Behind copies, too; whichever of the two comes first."""
    x = _x(model)
    norm = model.norm("norm", x)
    copies = [model.move(name, Identity(), each) for name, each in (("a", x), ("b", norm))]
    arms = copies if first else copies[::-1]
    total = model.plus("sum", *arms, 3.0, 2.0)
    model.like("relu", Opaque(), total)
    scale = 2 * model.evaluate(norm.role.map.scale) + 3
    if not first:
        scale = 3 * model.evaluate(norm.role.map.scale) + 2
    model.run(RULE)
    assert [node.name for node in model.graph] == ["x", "input", "norm", "relu"]
    assert_allclose(model.evaluate(norm.role.map.scale), scale, 1e-13)


def test_what_is_none(model: Model) -> None:
    """Of two values; of a linear operator; an arm that others read is a value of its own."""
    x, other = _x(model), model.input("other", *DIMS)
    assert not match(model.plus("two", model.norm("a", x), model.norm("b", other)))
    assert not match(model.plus("linear", model.conv("conv", x), x))
    read = model.norm("read", x)
    model.like("tanh", Opaque(), read)
    assert not match(model.plus("sum", read, model.norm("c", x)))
    pinned = model.norm("pinned", x, pinned=True)
    assert not match(model.plus("written", pinned, model.input("third", *DIMS)))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dtype": "float64"}, Code.DTYPE_CHANGE),
        ({"region": 1}, Code.DTYPE_CHANGE),
        ({"lays_out": True}, Code.UNSUPPORTED_FORM),
        ({"rank": None}, Code.UNKNOWN_RANK),
    ],
)
def test_arms_of_another_kind(model: Model, fields: dict[str, Any], code: Code) -> None:
    x = _x(model)
    total = model.plus("sum", model.norm("one", x, **fields), x)
    assert _codes(model, total) == {code}


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"lays_out": True}, Code.UNSUPPORTED_FORM), ({"region": 1}, Code.DTYPE_CHANGE)],
)
def test_one_arm_of_another_kind(model: Model, fields: dict[str, Any], code: Code) -> None:
    x = _x(model)
    one, other = model.norm("one", x), model.norm("other", x, **fields)
    assert _codes(model, model.plus("sum", one, other)) == {code}


@pytest.mark.parametrize("wider", [0, 1])
def test_axes_that_contain_others(model: Model, wider: int) -> None:
    """Those of channels among those of channels and rows."""
    x = _x(model)
    arms = [model.norm("norm", x), model.norm("other", x)]
    arms[wider] = model.arithmetic("wide", x, model.random.normal(size=(1, 3, 4)))
    assert _codes(model, model.plus("sum", *arms)) == set()


def test_sum_that_nobody_reads(model: Model) -> None:
    x = _x(model)
    model.plus("sum", model.norm("one", x), x)
    model.run(RULE)
    assert [node.name for node in model.graph] == ["x", "input", "one"]


def test_sum_of_another_kind(model: Model) -> None:
    x = _x(model)
    total = model.plus("sum", model.norm("one", x), x)
    total.lays_out = True
    assert _codes(model, total) == {Code.UNSUPPORTED_FORM}
    total.lays_out, total.dtype = False, "float64"
    assert _codes(model, total) == {Code.DTYPE_CHANGE}


def test_input_that_is_written(model: Model) -> None:
    x = _x(model, pinned=True)
    assert _codes(model, model.plus("sum", model.norm("one", x), x)) == {Code.MUTATED_IN_GRAPH}


def test_axes_that_do_not_contain_one_another(model: Model) -> None:
    x = _x(model)
    rows = model.arithmetic("rows", x, model.random.normal(size=(1, 1, 4)))
    assert _codes(model, model.plus("sum", model.norm("one", x), rows)) == {Code.AXIS_MISMATCH}


def test_sizes_that_disagree(model: Model) -> None:
    x = _x(model)
    four = model.arithmetic("four", x, model.random.normal(size=(1, 4)))
    assert _codes(model, model.plus("sum", model.norm("one", x), four)) == {Code.UNSUPPORTED_FORM}


def test_what_saves_nothing(model: Model) -> None:
    """``x + (x + 1)`` is two operations, as ``2 x + 1`` is; ``x + 3 x`` is one."""
    x = _x(model)
    shifted = model.plus("shifted", x, model.arithmetic("one", x, shift=1.0))
    assert _codes(model, shifted) == {Code.COSTS_MORE}
    scaled = model.plus("scaled", x, model.arithmetic("three", x, 3.0))
    assert _codes(model, scaled) == set()


def test_statistics_that_are_not_finite(model: Model) -> None:
    x = _x(model)
    broken = model.norm("broken", x, statistics={"var": -1})
    model.plus("sum", broken, x)
    model.run(RULE)
    assert "sum" in [node.name for node in model.graph]
