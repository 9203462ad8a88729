"""A slice of what ``make prove`` runs whole: each rule and movement, exact in integers."""

from __future__ import annotations

import pytest
from proofs.exact import Exact, Space, prove
from proofs.operators import Axis, Operator
from proofs.spaces import SPACES

from bnfx.passes.algebra import BroadcastAffine, Conv, Expression
from bnfx.passes.rules import fold_affine_into_linear, ordered


@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.rule}: {space.bound}")
def test_no_case_is_wrong(space: Space) -> None:
    assert space.run(space.every)["exact"] > 0


def test_every_rule_is_there() -> None:
    assert {rule.name for rule in ordered.RULES} <= {space.rule for space in SPACES}


def test_a_wrong_rewrite_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic: a weight scaled along its input channels, where shapes agree by accident."""

    def by_input(self: Conv, scale: Expression) -> Expression:
        return self.weight * scale.reshape(1, 3, 1)

    monkeypatch.setattr(Conv, "scale_out", by_input)
    model = Exact()
    chosen = Operator(False, (1, 3, 3), True, (Axis(2, 1, 1, (0, 0), 3),))
    before = model.apply(chosen.build(model), model.value(*chosen.input_dims))
    node = model.map(BroadcastAffine(model.numbers(1, 3), model.numbers(1, 3)), before)
    model.read(node)
    with pytest.raises(AssertionError, match="out is another value"):
        prove(model, fold_affine_into_linear.RULE, node)
