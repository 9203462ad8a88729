"""What rules share: copies that are stepped over, and when one map is less work than two."""

from __future__ import annotations

import pytest
from neutral import Model

from bnfx.passes.algebra import BroadcastAffine, Scalar
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Move, Node, Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.rules import fold_affine_into_linear, guards

TWICE = BroadcastAffine(Scalar(2.0), Scalar(0.0))
PLUS_ONE = BroadcastAffine(Scalar(1.0), Scalar(1.0))


def _copy(model: Model, **fields: bool) -> tuple[Node, Node, Node]:
    """A convolution, a copy of its output, and what reads the copy."""
    conv = model.conv("conv", model.x)
    copy = model.move("copy", Identity(), conv)
    return conv, copy, model.like("relu", Opaque(), copy)


def test_a_copy_is_stepped_over(model: Model) -> None:
    conv, copy, reader = _copy(model)
    assert guards.behind_identities(copy, reader) is conv
    assert guards.original(copy) is conv


def test_not_a_copy_that_others_read(model: Model) -> None:
    conv, copy, reader = _copy(model)
    model.like("other", Opaque(), copy)
    assert guards.behind_identities(copy, reader) is copy
    assert guards.original(copy) is conv


def test_not_a_copy_that_is_written_to(model: Model) -> None:
    _, copy, reader = _copy(model)
    copy.pinned = True
    assert guards.behind_identities(copy, reader) is copy
    assert guards.original(copy) is copy


def test_what_lays_out_anew_is_no_copy(model: Model) -> None:
    _, copy, reader = _copy(model)
    copy.role = Move(Identity(contiguous=True))
    assert guards.behind_identities(copy, reader) is copy


def test_arithmetic_of_two_steps_is_left_as_it_is(model: Model) -> None:
    one = model.like("twice", Affine(TWICE), model.x)
    two = model.like("plus", Affine(PLUS_ONE), one)
    assert not guards.merging_pays(one, two, PLUS_ONE @ TWICE)
    assert guards.merging_pays(one, one, TWICE @ TWICE)


def test_a_batch_norm_is_worth_a_merge_even_with_what_changes_nothing(model: Model) -> None:
    norm = model.batch_norm("norm", model.x)
    nothing = model.like("nothing", Affine(BroadcastAffine.identity()), norm)
    assert guards.merging_pays(norm, nothing, norm.role.map)
    assert not guards.merging_pays(nothing, nothing, BroadcastAffine.identity())


@pytest.mark.parametrize(
    ("dtype", "kept"), [("float64", "float64"), ("float16", "float32"), (None, "float32")]
)
def test_constants_are_kept_in_float32_at_least(dtype: str | None, kept: str) -> None:
    assert guards.multiply_add_dtype(dtype) == kept


def test_one_number_needs_no_rank(model: Model) -> None:
    """It is the same for all axes, whichever they are."""
    conv = model.conv("conv", model.x, rank=None, shape=None)
    node = model.like("twice", Affine(TWICE), conv)
    assert not list(guards.refuse_multiply_add(node, TWICE, None))
    assert not list(fold_affine_into_linear.refuse(node, None))
    fold_affine_into_linear.rewrite(model.graph, node, None)
    assert model.counts() == {"Opaque": 1, "Linear": 1}
    channels = model.batch_norm("norm", conv, rank=None, shape=None)
    (refusal,) = guards.refuse_multiply_add(channels, channels.role.map, None)
    assert refusal.code is Code.UNKNOWN_RANK


def test_two_of_many_readers_are_named(model: Model) -> None:
    readers = [model.like(f"r{at}", Opaque(), model.x) for at in range(4)]
    assert guards.also_read(model.x, readers[:2]).reason == "x is also read by r0, r1"
    assert guards.also_read(model.x, readers).reason == "x is also read by r0, r1 and 2 more"
