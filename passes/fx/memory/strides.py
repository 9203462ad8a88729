"""Memory layout: where an op lays its output out anew, and somebody would miss that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.fx import private
from bnfx.passes.fx.facts.spelling import facts_of
from bnfx.passes.fx.memory.aliasing import shares_memory_with
from bnfx.passes.fx.metadata import strides_of, value_of

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_MANY = 64  # more readers than that are not followed: somebody looks


def must_lay_out(
    node: fx.Node,
    source: fx.Node,
    module: nn.Module,
    may_vanish: Callable[[fx.Node], bool],
    keeps_strides: bool,
) -> bool:
    """Whether readers of ``node`` rely on its layout, which is not that of ``source``.

    BatchNorm gives a contiguous (or channels-last) output whatever it gets. Arithmetic keeps the
    strides of what fills its memory, and closes the gaps of what does not. A view of the output,
    or a caller who is handed it, may rely on that.

    Args:
        node: is to become ``source`` itself, scaled elsewhere.
        source: what it reads.
        module: owns the graph.
        may_vanish: whether a reader may become what it reads, in turn.
        keeps_strides: the op is arithmetic.
    """
    value = value_of(source)
    if value is None or is_dense(value):
        return False
    if keeps_strides and private.fills_its_memory(value):
        return False
    # A part of a dense tensor: new values that are made from it are dense again, in its order.
    ordered = list(value.stride()) == sorted(value.stride(), reverse=True)
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        for user in current.users:
            fresh = ordered and not shares_memory_with(user, module) and not may_vanish(user)
            if user in seen or (fresh and user.op != "output"):
                continue
            seen.add(user)
            if len(seen) > _MANY or user.op in ("output", "call_module"):
                return True
            facts = facts_of(user)
            if facts is not None and facts.strides:
                return True
            stack.append(user)
    return False


def is_dense(value: torch.Tensor) -> bool:
    """Whether the layout is one that BatchNorm keeps."""
    return value.is_contiguous() or _is_channels_last(value)


def lays_out_anew(copied: fx.Node, source: fx.Node) -> bool:
    """Whether a copy of ``source`` lies in memory otherwise, so that it is none to who asks."""
    before, after = value_of(source), value_of(copied)
    if before is None or after is None:
        facts = facts_of(copied)
        return facts is not None and facts.name in ("clone", "contiguous")
    return strides_of(before) != strides_of(after)


def is_missed_in_vmap(node: fx.Node, source: fx.Node) -> bool:
    """Whether readers rely on how ``node``, which is to become ``source``, lies in memory with all
    batches of ``torch.vmap``: BatchNorm puts these beside the channels, a convolution beside the
    samples, and nothing inside of vmap can lay that out.
    """
    value, other = value_of(node), value_of(source)
    if value is None or other is None:
        return False
    axes, before = private.axes_in_vmap(value), private.axes_in_vmap(other)
    if axes is None or _significant(axes) == _significant(before or ()):
        return False
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        for user in stack.pop().users:
            facts = facts_of(user)
            if user in seen or (facts is not None and facts.name.startswith("conv")):
                continue  # its output lies as it does for any input
            seen.add(user)
            if len(seen) > _MANY or user.op == "output" or (facts is not None and facts.strides):
                return True
            stack.append(user)
    return False


def _significant(axes: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    return [(str(size), str(stride)) for size, stride in axes if str(size) != "1"]


def layout_of(node: fx.Node) -> torch.memory_format | None:
    """The node's channels-last format, or ``None`` for the usual one."""
    value = value_of(node)
    if value is None or value.is_contiguous() or not _is_channels_last(value):
        return None
    return _CHANNELS_LAST[value.dim()]


def _is_channels_last(value: torch.Tensor) -> bool:
    form = _CHANNELS_LAST.get(value.dim())
    if form is None:
        return False
    try:
        return value.is_contiguous(memory_format=form)
    except RuntimeError:  # inside of torch.vmap only the usual layout may be asked for
        return False
