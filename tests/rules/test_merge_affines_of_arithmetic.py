"""affine(affine x) -> affine x, where one of the two is arithmetic of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.algebra import BroadcastAffine, Source
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Move, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome, Site
from bnfx.passes.rules.merge_affines import RULE

CHANNELS = np.array([[1.0, -2, 0]])


def chain(model: Model, *maps: Any) -> list[Node]:
    """A chain of ``(scale, shift)``; ``None`` is a BatchNorm."""
    node = model.like("sin", Opaque(), model.input("in", 3, 3, 3))
    nodes = []
    for position, sides in enumerate(maps):
        name = f"m{position}"
        node = model.norm(name, node) if sides is None else model.arithmetic(name, node, *sides)
        nodes.append(node)
    model.like("out", Opaque(), node)
    return nodes


@pytest.mark.parametrize(
    "maps",
    [
        (None, (2.0, 0.0)),
        ((2.0, 0.0), None),
        (None, (1.0, CHANNELS)),
        ((CHANNELS, 0.0), (2.0, 0.0)),
        ((1.0, 3.0), (1.0, CHANNELS)),
        ((CHANNELS, 1.0), (2.0, CHANNELS)),
        ((CHANNELS.reshape(1, 1, 3), 0.0), (2.0, 0.0)),
        (None, (np.arange(9.0).reshape(1, 3, 3), 0.0)),
        ((np.arange(9.0).reshape(1, 3, 3), 0.0), None),
    ],
)
def test_one_op_for_two(model: Model, maps: Any) -> None:
    first, second = chain(model, *maps)
    report = check_same(model, RULE)
    assert [(v.outcome, v.target) for v in report.verdicts] == [
        (Outcome.LOWERED, ""),
        (Outcome.MERGED, "m0"),
    ]
    assert first.role.lowered
    assert second not in model.graph


@pytest.mark.parametrize(
    "maps", [((2.0, 0.0), (1.0, 3.0)), ((1.0, 3.0), (CHANNELS, 0.0)), ((1.0, 3.0), (2.0, 0.0))]
)
def test_refuses_a_merge_that_saves_no_op(model: Model, maps: Any) -> None:
    """A product and a sum are two ops, merged or not."""
    _, second = chain(model, *maps)
    assert model.reasons(RULE, second) == [
        Refusal(Code.COSTS_MORE, "merging it with m0 would save nothing")
    ]


def test_constants_that_the_graph_computes_are_worth_a_merge(model: Model) -> None:
    first, _ = chain(model, (2.0, 0.0), (1.0, 3.0))
    base = model.source("base", CHANNELS)
    model.arrays["computed"] = model.arrays["base"] * 3
    computed = Source("computed", (1, 3), "float32", bases=(base,))
    first.role = Affine(BroadcastAffine(computed, first.role.map.shift))
    check_same(model, RULE)
    assert model.counts()["Lowered"] == 1


def test_refuses_maps_along_different_axes(model: Model) -> None:
    _, second = chain(model, None, (CHANNELS.reshape(1, 1, 3), 0.0))
    assert model.reasons(RULE, second) == [
        Refusal(Code.AXIS_MISMATCH, "it varies along axes (2,), m0 along (1,)")
    ]


def test_refuses_maps_of_different_sizes(model: Model) -> None:
    _, second = chain(model, None, (2.0, 0.0))
    second.role = Affine(BroadcastAffine(model.source("wrong", [[1, 2]]), second.role.map.shift))
    (refusal,) = model.reasons(RULE, second)
    assert refusal.code is Code.UNSUPPORTED_FORM
    assert refusal.reason.startswith("m0 has other sizes: ")


def test_refuses_a_first_map_that_is_written_to(model: Model) -> None:
    first, second = chain(model, None, None)
    first.pinned = True
    assert model.reasons(RULE, second) == [
        Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to the output of m0")
    ]


def test_what_lays_its_output_out_leaves_an_op_that_does(model: Model) -> None:
    _, second = chain(model, None, None)
    second.lays_out = True
    check_same(model, RULE)
    assert second.role == Move(Identity(contiguous=True))


def nothing(model: Model, before: Node) -> Node:
    return model.like(
        "nothing", Affine(BroadcastAffine.identity()), before, sites=(Site("nothing", "affine"),)
    )


@pytest.mark.parametrize("lays_out", [False, True])
def test_what_does_nothing_is_taken_out(model: Model, lays_out: bool) -> None:
    conv = model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3)
    identity = nothing(model, conv)
    identity.lays_out = lays_out
    model.like("out", Opaque(), model.conv2d("next", identity, 3))
    report = check_same(model, RULE)
    (verdict,) = report.verdicts
    assert (verdict.outcome, verdict.target) == (Outcome.MERGED, "conv")
    assert (identity in model.graph) is lays_out


@pytest.mark.parametrize("where", ["conv", "nothing"])
def test_refuses_to_take_out_a_copy_of_what_is_written_to(model: Model, where: str) -> None:
    conv = model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3)
    identity = nothing(model, conv)
    model.conv2d("next", identity, 3)
    {"conv": conv, "nothing": identity}[where].pinned = True
    (refusal,) = model.reasons(RULE, identity)
    assert refusal.code is Code.MUTATED_IN_GRAPH


def test_refuses_to_hand_the_original_to_what_may_keep_it(model: Model) -> None:
    identity = nothing(model, model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3))
    model.like("out", Opaque(), identity)
    assert model.reasons(RULE, identity) == [
        Refusal(Code.OTHER_READERS, "out may keep or change what it gets")
    ]


def test_refuses_to_take_out_a_change_of_dtype(model: Model) -> None:
    identity = nothing(model, model.conv2d("conv", model.input("in", 2, 3, 4, 4), 3))
    identity.dtype = "float16"
    model.move("next", Identity(), identity)
    assert model.reasons(RULE, identity) == [
        Refusal(Code.DTYPE_CHANGE, "conv gives float32, not float16")
    ]
