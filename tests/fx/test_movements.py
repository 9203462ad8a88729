"""How calls that reorder axes are read, against what torch makes of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bnfx.passes.crossing import Permute
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.roles.movements import read_movement
from bnfx.passes.graph import Move

SIZES = (2, 3, 5, 7)


def _order(rank: int, source: Any, destination: Any) -> tuple[int, ...]:
    given = {"input": None, "source": source, "destination": destination}
    after = tuple(torch.empty(SIZES[:rank]).movedim(source, destination).shape)
    role = read_movement(Call("movedim", 0, given), SIZES[:rank], after)
    assert isinstance(role, Move)
    assert isinstance(role.movement, Permute)
    return role.movement.order


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_axes_that_are_moved(rank: int) -> None:
    x = torch.randn(SIZES[:rank])
    axes = range(-rank, rank)
    pairs = [pair for pair in itertools.product(axes, repeat=2) if (pair[0] - pair[1]) % rank]
    for source, destination in (
        *itertools.product(axes, repeat=2),
        *itertools.product(pairs, repeat=2),
    ):
        order = _order(rank, source, destination)
        assert torch.equal(x.permute(order), x.movedim(source, destination))


def test_axes_that_are_computed_are_not_read() -> None:
    given = {"input": None, "source": torch.fx.Graph().placeholder("axis"), "destination": 0}
    assert read_movement(Call("movedim", 0, given), (2, 3), (2, 3)) is None
