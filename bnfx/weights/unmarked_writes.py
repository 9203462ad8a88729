"""Writes that leave no mark on the tensor itself: optimizer steps, and what the user tells."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# How often something may have been written unseen, of one tensor by its id, and of any. Ids are
# reused after a tensor dies: at worst, something is folded once too often.
_written: dict[int, int] = {}
_epoch = 0
_lock = threading.Lock()


def refresh(compiled: Any = None) -> None:
    """Fold again at the next call, after a write that leaves no trace.

    Needed only after writes to a *few elements* of a convolution's or linear layer's weight that
    bypass autograd, such as ``conv.weight.data[0, 0] = 1`` or a write through NumPy; everything
    else is noticed. ``BNFX_CHECK_CONTENT=1`` in the environment notices these too, at a price.

    Args:
        compiled: what ``torch.compile`` returned. For a module, its parameters and buffers are
            folded anew, by whatever compiled code reads them. For a function, whose parameters are
            not known, and without an argument, every parameter of every model is.

    Raises:
        TypeError: for something that was not compiled.
    """
    module = getattr(compiled, "_orig_mod", compiled)
    if isinstance(module, nn.Module) and (
        module is not compiled or getattr(compiled, "_compiled_call_impl", None) is not None
    ):
        mark(itertools.chain(module.parameters(), module.buffers()))
        return
    if compiled is not None and not hasattr(compiled, "_torchdynamo_orig_callable"):
        kind = type(compiled).__name__
        raise TypeError(f"bnfx.refresh takes what torch.compile returned, not an uncompiled {kind}")
    _mark((0,))  # no tensor's id


def mark(tensors: Iterable[torch.Tensor]) -> None:
    """Note that these tensors may have been written to."""
    _mark(map(id, tensors))


def _mark(ids: Iterable[int]) -> None:
    global _epoch
    with _lock:
        _written.update(dict.fromkeys(ids, _epoch + 1))
        _epoch += 1  # last: who sees the new epoch must see the marks


def epoch() -> int:
    """A number that grows with each unseen write to any tensor."""
    return _epoch


def written_since(tensors: Iterable[torch.Tensor], since: int) -> bool:
    """Whether one of these may have been written to unseen after :func:`epoch` was ``since``."""
    if _epoch == since:
        return False
    last = _written.get
    return last(0, 0) > since or any(last(id(tensor), 0) > since for tensor in tensors)


@functools.cache
def watch_optimizers() -> None:
    """Mark, from now on, what optimizers step: fused ones move no version counter."""
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    mark(parameter for group in optimizer.param_groups for parameter in group["params"])
