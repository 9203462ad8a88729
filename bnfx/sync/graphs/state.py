"""Whether a graph is to synchronise, decided when it is compiled, and guarded from then on.

What was decided depends on the process group, which a graph does not show. Dynamo therefore gets a
guard: once the group is up, or destroyed, it compiles the code again instead of running a graph
that no longer fits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from bnfx.errors import SyncError
from bnfx.sync.group import Peers, is_recomputing, is_up, peers_of
from bnfx.sync.joining import is_joining


@dataclass(frozen=True)
class SyncState:
    """What the decision depends on.

    Args:
        is_up: whether a process group is initialised.
        peers: who would share statistics, if anybody.
        recomputing: whether a backward pass calls, as checkpointing around compiled code does.
        is_joining: whether ranks may end at different steps; see :mod:`bnfx.sync.joining`.
    """

    is_up: bool
    peers: Peers | None
    recomputing: bool = False
    is_joining: bool = False


def current_state(group: Any) -> SyncState:
    """The state at this moment.

    Args:
        group: of the options; ``None`` for the default group.

    Raises:
        ValueError: if ``group`` was destroyed while the default group is up.
    """
    peers = peers_of(group)
    if peers is not None and group is not None:
        try:
            dist.get_process_group_ranks(group)
        except KeyError:
            raise ValueError("it was destroyed") from None
    return SyncState(is_up(), peers, is_recomputing(), is_joining())


def guard_state(group: Any, state: SyncState) -> None:
    """Make Dynamo compile the code at hand anew when the state is no longer this one.

    Raises:
        SyncError: if this torch has no such guards: a stale graph would be silently wrong.
    """
    try:
        from torch._dynamo.guards import get_verbose_code_parts
        from torch._dynamo.source import GlobalStateSource
        from torch._guards import Guard, TracingContext
    except ImportError as error:
        raise SyncError(
            f"torch {torch.__version__} cannot guard a graph by the state of the process group "
            f'({error}); use sync="off", and bnfx.convert_sync_batchnorm without this backend'
        ) from error
    context = TracingContext.try_get()
    if context is None:  # the backend was called by hand, and nobody checks guards
        return

    def create(builder: Any, guard: Any) -> None:
        code = [f"bnfx.sync.graphs.state.current_state(...) == {state}"]
        holds = functools.partial(_holds, group=group, state=state)
        parts = get_verbose_code_parts(code, guard)
        builder.guard_manager.root.add_lambda_guard(holds, parts, None)

    context.guards_context.dynamo_guards.add(Guard(GlobalStateSource(), create))


def _holds(_: object, group: Any, state: SyncState) -> bool:
    try:
        return current_state(group) == state
    except ValueError:
        return False
