"""Writes that leave no mark on the tensor itself: optimizer steps, and what the user tells."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from bnfx.inner.locks import Lock

# How often something may have been written unseen, of one tensor by its id, and of any. Ids are
# reused after a tensor dies: at worst, something is folded once too often.
_written: dict[int, int] = {}
_epoch = 0
# Ids that are kept. When there are more, all are forgotten, and everything counts as written to:
# each model is folded once too often.
MAX_KEPT = 1 << 16
_any = 0  # the last epoch in which anything may have been written to
_lock = Lock()


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
    if isinstance(module, nn.Module) and (module is not compiled or _holds_compiled(module)):
        mark(itertools.chain(module.parameters(), module.buffers()))
        return
    if compiled is not None and not hasattr(compiled, "_torchdynamo_orig_callable"):
        kind = type(compiled).__name__
        raise TypeError(f"bnfx.refresh takes what torch.compile returned, not an uncompiled {kind}")
    _lock.run(_mark_all)


def _holds_compiled(module: nn.Module) -> bool:
    """Whether it, or a module in it, was compiled (in place, or wrapped)."""
    return any(
        getattr(part, "_compiled_call_impl", None) is not None
        or hasattr(part, "_orig_mod")
        or hasattr(part.forward, "_torchdynamo_orig_callable")
        for part in module.modules()
    )


def mark(tensors: Iterable[torch.Tensor]) -> None:
    """Note that these tensors may have been written to."""
    written = list(tensors)
    if any(_is_shard(tensor) for tensor in written):  # others are gathered from it
        _lock.run(_mark_all)
    else:
        ids = list(map(id, written))
        _lock.run(lambda: _mark(ids))


def _mark(ids: Iterable[int]) -> None:
    global _epoch
    if len(_written) > MAX_KEPT:
        _mark_all()  # first: who sees fewer marks must see that everything counts as written to
        _written.clear()
    _written.update(dict.fromkeys(ids, _epoch + 1))
    _epoch += 1  # last: who sees the new epoch must see the marks


def _mark_all() -> None:
    global _any, _epoch
    _any = _epoch + 1
    _epoch += 1


def epoch() -> int:
    """A number that grows with each unseen write to any tensor."""
    return _epoch


def written_since(tensors: Iterable[torch.Tensor], since: int) -> bool:
    """Whether one of these may have been written to unseen after :func:`epoch` was ``since``."""
    if _epoch == since:
        return False
    last = _written.get
    # Marks are read first, and what took their place after them.
    return any(last(id(tensor), 0) > since for tensor in tensors) or _any > since


def hides_writes(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether FSDP is at work: it gathers shards into memory that keeps its address, and whose
    version it restores, so that a write to a shard leaves no mark on what a graph is given.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    wrapped = fsdp is not None and fsdp.FSDPModule.__subclasses__()  # a class of each sharded one's
    return bool(wrapped) or any(hasattr(tensor, "_fsdp_flattened") for tensor in tensors)


def _is_shard(tensor: torch.Tensor) -> bool:
    distributed: Any = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


@functools.cache
def watch_optimizers() -> None:
    """Mark, from now on, what optimizers step: fused ones move no version counter."""
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    mark(parameter for group in optimizer.param_groups for parameter in group["params"])
