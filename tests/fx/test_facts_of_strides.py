"""Which ops do not ask how their arguments lie in memory, on real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fx.test_facts import calls, copied, rows, tensors
from torch import Tensor

from bnfx.passes.fx.facts.known import Facts
from bnfx.passes.fx.facts.spelling import METHODS


def _spread(value: Any) -> Any:
    """The same numbers, with gaps between them and the axes in another order."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_spread, value))
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    sizes = [2 * size for size in reversed(value.shape)]
    wide = value.new_empty(sizes).permute(*reversed(range(value.ndim)))
    return wide[tuple(slice(0, 2 * size, 2) for size in value.shape)].copy_(value)


@rows(lambda row: not row.strides and row.name != "_assert_tensor_metadata")
def test_what_does_not_depend_on_strides(row: Facts) -> None:
    """It takes a tensor that lies otherwise, and gives the same."""
    for name, function, sample in calls(row):
        arguments = copied(sample)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = function(*arguments)
            torch.manual_seed(0)
            found = function(*_spread(arguments))
        for one, other in zip(tensors(found), tensors(expected), strict=True):
            torch.testing.assert_close(one, other, msg=name)
        if not tensors(expected):
            assert found == expected, name


@pytest.mark.parametrize("name", ["view", "view_as", "as_strided"])
def test_what_depends_on_strides(name: str) -> None:
    """On a tensor that lies otherwise it fails, or gives other numbers."""
    assert METHODS[name].facts.strides
    x = torch.arange(24.0).reshape(2, 3, 4)
    arguments = {"view": (6, 4), "view_as": (x.reshape(6, 4),), "as_strided": ((2, 3), (12, 4))}
    same = getattr(x, name)(*arguments[name])
    try:
        other = getattr(_spread(x), name)(*arguments[name])
    except RuntimeError:
        return
    assert not torch.equal(other, same)
