"""affine(T x) -> T(affine' x): who else reads or writes what would change, and where ways end."""

from __future__ import annotations

import numpy as np
import pytest
from neutral import Model
from rules.move_cases import MEAN, back, back_code, conv, every_reason, on, on_code, reasons

from bnfx.passes.crossing import Movement, Reshape, Select, Window
from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.move_affine import RULE


def test_these_graphs_are_accepted_as_they_are(model: Model) -> None:
    assert not list(RULE.refuse(back(model), model.values))
    fresh = Model()
    assert not list(RULE.refuse(on(fresh), fresh.values))


def test_refuses_where_both_ways_end(model: Model) -> None:
    norm = model.norm("norm", model.move("moved", MEAN, model.input("in", 4, 4, 4, 4), 4, 4, 2, 2))
    model.like("out", Opaque(), norm)
    assert reasons(model, norm) == (
        Refusal(Code.NO_LINEAR_BEFORE, "the way back ends at in"),
        Refusal(Code.NO_LINEAR_AFTER, "out reads norm"),
    )


def test_refuses_the_way_on_where_nothing_reads(model: Model) -> None:
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4))
    model.move("moved", MEAN, norm, 4, 4, 2, 2)
    assert reasons(model, norm)[1] == Refusal(Code.NO_LINEAR_AFTER, "nothing reads moved")


def test_refuses_where_one_branch_does_not_absorb(model: Model) -> None:
    norm = on(model)
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[1] == Refusal(Code.NO_LINEAR_AFTER, "out reads norm")


def test_what_can_take_neither_is_told_of_alone(model: Model) -> None:
    """That the other summand takes no shift matters only where the first one takes one."""
    first = model.like("first", Opaque(), model.input("in", 4, 4, 4, 4))
    pool = model.move("pool", Window((2, 3), counts_padding=True), conv(model))
    norm = model.norm("norm", model.plus("sum", first, pool))
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[0].code is Code.NO_LINEAR_BEFORE


@pytest.mark.parametrize("where", ["conv", "moved"])
def test_a_reader_of_the_shape_alone_does_not_count(model: Model, where: str) -> None:
    norm = back(model)
    read = {"conv": norm.inputs[0].inputs[0], "moved": norm.inputs[0]}[where]
    model.add("size", Opaque(reads_data=False), read)
    assert not list(RULE.refuse(norm, model.values))


@pytest.mark.parametrize("where", ["conv", "moved"])
def test_refuses_other_readers_and_names_them(model: Model, where: str) -> None:
    norm = back(model)
    model.like("also", Opaque(), {"conv": norm.inputs[0].inputs[0], "moved": norm.inputs[0]}[where])
    assert reasons(model, norm)[0] == Refusal(Code.OTHER_READERS, f"{where} is also read by also")


@pytest.mark.parametrize(
    ("sibling", "refused"),
    [
        (Select(1, 2, 4), False),
        (Select(1, 1, 3), True),
        (Select(1, 0, 2), True),
        (Select(2, 0, 2), True),
        (Reshape(), True),
    ],
)
def test_refuses_parts_that_overlap(model: Model, sibling: Movement, refused: bool) -> None:
    start = conv(model)
    part = model.move("part", Select(1, 0, 2), start, 4, 2, 4, 4)
    dims = (4, 4, 2, 4) if getattr(sibling, "axis", 1) == 2 else (4, 2, 4, 4)
    other = model.move(
        "other", sibling, start, *((4, 64) if isinstance(sibling, Reshape) else dims)
    )
    model.like("out2", Opaque(), other)
    norm = model.norm("norm", part)
    model.like("out", Opaque(), norm)
    if refused:
        assert reasons(model, norm)[0] == Refusal(Code.OTHER_READERS, "conv is also read by other")
    else:
        assert not list(RULE.refuse(norm, model.values))


def test_refuses_to_change_a_part_that_is_concatenated_with_the_whole(model: Model) -> None:
    start = conv(model)
    part = model.move("part", Select(1, 0, 2), start, 4, 2, 4, 4)
    norm = model.norm("norm", model.concat("cat", 1, part, start))
    model.like("out", Opaque(), norm)
    assert back_code(model, norm) is Code.OTHER_READERS


def test_refuses_a_product_of_a_value_with_itself(model: Model) -> None:
    """A scale of the square is the square of a scale, which may have no real root."""
    start = conv(model)
    last = model.arithmetic("scale", model.gate("join", start, start), 2.0)
    model.like("out", Opaque(), last)
    assert reasons(model, last)[0] == Refusal(
        Code.OTHER_READERS, "join multiplies a value by itself"
    )


def test_refuses_two_maps_of_one_value(model: Model) -> None:
    """The halves of a concatenation are one value, and their channels have maps of their own."""
    start = conv(model)
    norm = model.norm("norm", model.concat("join", 1, start, start))
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[0] == Refusal(Code.OTHER_READERS, "conv is also read by join")


@pytest.mark.parametrize("where", ["conv", "moved"])
def test_refuses_the_way_back_through_what_is_written_to(model: Model, where: str) -> None:
    norm = back(model)
    {"conv": norm.inputs[0].inputs[0], "moved": norm.inputs[0]}[where].pinned = True
    assert every_reason(model, norm)[0] == (
        Refusal(Code.MUTATED_IN_GRAPH, f"the graph may write to the output of {where}"),
    )


@pytest.mark.parametrize("where", ["in", "norm", "moved"])
def test_refuses_the_way_on_through_what_is_written_to(model: Model, where: str) -> None:
    norm = on(model)
    (moved,) = norm.users
    {"in": norm.inputs[0], "norm": norm, "moved": moved}[where].pinned = True
    assert [refusal.code for refusal in every_reason(model, norm)[1]] == [Code.MUTATED_IN_GRAPH]


@pytest.mark.parametrize("kind", ["concat", "add", "gate"])
def test_refuses_the_way_on_through_a_join_that_is_written_to(model: Model, kind: str) -> None:
    x = model.input("in", 4, 4, 4, 4)
    free = model.like("free", Opaque(), x)
    start = model.like("start", Opaque(), x)
    shift = np.ones((1, 4))
    node = model.arithmetic("map", start, *((1.0, shift) if kind == "add" else (shift, 0.0)))
    join = {
        "concat": lambda: model.concat("join", 1, node, free),
        "add": lambda: model.plus("join", node, free),
        "gate": lambda: model.gate("join", node, free),
    }[kind]()
    model.conv2d("conv", join, 4)
    assert not list(RULE.refuse(node, model.values))
    join.pinned = True
    assert on_code(model, node) is Code.MUTATED_IN_GRAPH


def test_refuses_where_nothing_stands_between(model: Model) -> None:
    """That is for other rules, which say more."""
    norm = model.norm("norm", conv(model))
    model.conv2d("next", norm, 4)
    assert reasons(model, norm) == (
        Refusal(Code.NOTHING_BETWEEN, "nothing stands between"),
        Refusal(Code.NOTHING_BETWEEN, "nothing stands between"),
    )


@pytest.mark.parametrize("alone", [True, False])
def test_a_part_of_which_nobody_sees_the_rest_lets_the_whole_change(
    model: Model, alone: bool
) -> None:
    """Elsewhere the map must be the identity, so that it varies along the part's axis too."""
    start = conv(model)
    norm = model.norm("norm", model.move("part", Select(2, 0, 2), start, 4, 4, 2, 4))
    model.like("out", Opaque(), norm)
    if not alone:
        rest = model.move("rest", Select(2, 2, 4), start, 4, 4, 2, 4)
        model.like("out2", Opaque(), rest)
        assert back_code(model, norm) is Code.AXIS_MISMATCH
    else:
        assert not list(RULE.refuse(norm, model.values))
