"""Whether a trace is the same each time: no clock, counter or random number is part of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError


def trace_twice(trace: Callable[[], fx.Graph]) -> fx.Graph:
    """What ``trace`` gives, as it gives it again, with no random number of torch's drawn.

    Raises:
        CaptureError: if that changes from call to call, so that a graph would have it once for all.
    """
    before = torch.get_rng_state()
    first, second = trace(), trace()
    if not torch.equal(torch.get_rng_state(), before):
        raise CaptureError("it draws random numbers, which a graph would hold for good")
    for one, other in itertools.zip_longest(first.nodes, second.nodes):
        if one is None or other is None or not _are_same(one, other):
            raise CaptureError(
                f"it runs otherwise each time ({(one or other).name}), as by a clock or a counter, "
                "which a graph would hold for good"
            )
    return first


def _are_same(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes at one place do the same."""
    if (one.op, one.name) != (other.op, other.name) or one.target != other.target:
        return False
    ours, form = pytree.tree_flatten((one.args, one.kwargs))
    theirs, other_form = pytree.tree_flatten((other.args, other.kwargs))
    return form == other_form and all(map(_is_same, ours, theirs))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, fx.Node) and isinstance(other, fx.Node):
        return one.name == other.name
    return one is other or (type(one) is type(other) and repr(one) == repr(other))
