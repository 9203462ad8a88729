"""How much of a large weight is compared at each call."""

from __future__ import annotations

import pytest
import torch

from bnfx.weights.changes.content import Content


@pytest.mark.parametrize("form", ["plain", "channels_last", "channels_last_3d"])
def test_of_a_large_weight_on_the_host_a_sample_is_compared(form: str) -> None:
    """In one stretch of memory, whatever the order of its axes, and by the native check."""
    weight = torch.randn((64, 32, 3, 3, 3) if form.endswith("3d") else (64, 32, 3, 3))
    if form != "plain":
        weight = weight.to(memory_format=getattr(torch, form))
    content = Content([weight], everything=False)
    assert not content.has_rest
    pieces, _ = content.pieces()
    assert [count for _, count, *_ in pieces] == [128]
