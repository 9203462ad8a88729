"""Who shares the statistics: the ranks of a process group."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

DEBUG_VARIABLE = "BNFX_SYNC_DEBUG"


@dataclass(frozen=True)
class Peers:
    """The ranks that share statistics, as a graph can hold them.

    Args:
        name: the process group's name, by which collectives find it.
        size: how many ranks; more than one.
        debug: whether ranks compare what they are about to do, before each collective.
    """

    name: str
    size: int
    debug: bool = False


def is_up() -> bool:
    """Whether a process group is initialised."""
    return dist.is_available() and dist.is_initialized()


def peers_of(group: Any = None) -> Peers | None:
    """The ranks of ``group``; ``None`` where there is nobody to share statistics with.

    That is so while no group is up, in a group of one rank, and on a rank outside the group.

    Args:
        group: a ``ProcessGroup``, what ``new_group`` gives to ranks outside, or ``None`` for the
            default group.
    """
    if not is_up():
        return None
    if group is None:
        group = dist.group.WORLD
    size: int = dist.get_world_size(group)
    if size <= 1:
        return None
    return Peers(group.group_name, size, is_debugging())


def is_debugging() -> bool:
    """Whether ``BNFX_SYNC_DEBUG`` asks for the comparison of :mod:`bnfx.sync.diagnosis`."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def is_recomputing() -> bool:
    """Whether a backward pass calls, as activation checkpointing does to compute forward again."""
    return bool(torch._C._current_graph_task_id() != -1)


def is_distributed_tensor(x: torch.Tensor) -> bool:
    """Whether it is a ``DTensor``, of which this rank holds a part."""
    return type(x).__name__ == "DTensor"
