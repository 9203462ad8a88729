"""What the backend puts into graphs, and where."""

from __future__ import annotations

import functools
import hashlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor import config as inductor_config

from bnfx.errors import SyncError, SyncWarning
from bnfx.options import Options
from bnfx.passes.fx.metadata import name_of
from bnfx.passes.fx.training.synchronise import Swapped, graph_modules, in_training, synchronise
from bnfx.sync import collectives, diagnosis, functional, moments, normalise
from bnfx.sync.convert import LOCAL
from bnfx.sync.functional import Layer
from bnfx.sync.group import Peers, peers_of
from bnfx.sync.module import SyncBatchNorm
from bnfx.sync.owner import owner_of, running_modules
from bnfx.sync.state import current_state, guard_state

_TRACED = (sys.modules[__name__], functional, normalise, moments, collectives, diagnosis)


def sync_batch_norms(
    layers: Sequence[tuple[Any, ...]],
    token: torch.Tensor | None,
    tracking: bool,
    **peers: Any,
) -> tuple[torch.Tensor, ...]:
    """:func:`bnfx.sync_batch_norm` for several layers at once, as graphs call it.

    Args:
        layers: independent of one another; the fields of :class:`Layer`, in order.
        token: what the call before returned last; ``None`` in the first one.
        tracking: whether to update running statistics.
        peers: the fields of :class:`Peers`.

    Returns:
        The outputs, and the token for the next call.
    """
    read = [Layer(*layer) for layer in layers]
    dtype = functools.reduce(torch.promote_types, [layer.dtype for layer in read])
    if not tracking:
        read = [replace(layer, running_mean=None, running_var=None) for layer in read]
    x = read[0].input
    token = x.new_zeros(1, dtype=dtype) if token is None else token.to(x.device, dtype)
    return functional.synchronise(read, Peers(**peers), token)


@functools.cache
def _allow_caching() -> None:
    """Let AOTAutograd's cache keep graphs with our function, keyed by the text of its sources."""
    sources = [Path(each.__file__ or "").read_bytes() for each in _TRACED]
    name = f"{sync_batch_norms.__module__}.{sync_batch_norms.__name__}"
    known = getattr(inductor_config, "unsafe_marked_cacheable_functions", None)
    if known is None:  # it is an option that torch may drop; without it, each start compiles anew
        return
    key = hashlib.sha256(b"".join(sources)).hexdigest()
    inductor_config.unsafe_marked_cacheable_functions = {**known, name: key}


def synchronised(module: fx.GraphModule, options: Options) -> Swapped:
    """``module`` with its training BatchNorms synchronised, if options and process group say so.

    Args:
        module: what Dynamo captured; left untouched.
        options: of the backend.

    Raises:
        SyncError: if ``sync="require"`` cannot be met.
    """
    if options.sync == "off":
        return Swapped(module)
    _look_for_what_breaks_graphs(options)
    found = list(in_training(module))
    if not found and not _communicates(module):
        return Swapped(module)
    try:
        state = current_state(options.process_group)
    except ValueError as error:
        raise SyncError(f"the process group of the options cannot be used: {error}") from error
    guard_state(options.process_group, state)
    required = options.sync == "require"
    if required and not state.is_up:
        raise SyncError(
            'sync="require", but no process group is up; call torch.distributed.'
            'init_process_group first, or use sync="auto"'
        )
    if state.peers is None:
        return Swapped(module)
    _allow_caching()
    constants = {**asdict(state.peers), "tracking": not state.recomputing}
    swapped = synchronise(module, _is_in_training, sync_batch_norms, constants)
    left = [node for node in in_training(swapped.module) if _is_in_training(node)]
    if required and left:
        raise SyncError(
            f'sync="require", but {name_of(left[0])} ({left[0].name}) is no BatchNorm that can be '
            "synchronised: it returns statistics, or computes its training flag"
        )
    return swapped


def _look_for_what_breaks_graphs(options: Options) -> None:
    """Say so where a BatchNorm breaks the graph, and so runs outside of it, and alone.

    With ``momentum=None``, torch's own reads its counter as a number.
    """
    for path, each in running_modules():
        breaks = type(each) in LOCAL and each.training and each.track_running_stats
        if not breaks or each.momentum is not None or peers_of(options.process_group) is None:
            continue
        message = (
            f"{path or 'the module'} has momentum=None: Dynamo cannot capture it, and it keeps its "
            "statistics to itself; bnfx.convert_sync_batchnorm(model) makes it one that is captured"
        )
        if options.sync == "require":
            raise SyncError(f'sync="require", but {message}')
        warnings.warn(message, SyncWarning, stacklevel=2)


def _is_in_training(node: fx.Node) -> bool:
    """Not a layer in evaluation without running statistics, which uses its batch, but alone."""
    owner = owner_of(node)
    return owner is None or (owner.training and not isinstance(owner, SyncBatchNorm))


def _communicates(module: fx.GraphModule) -> bool:
    """Whether a SyncBatchNorm of ours was traced into the graph, or into one nested in it."""
    nodes = (node for each in graph_modules(module) for node in each.graph.nodes)
    return any("_c10d_functional" in str(node.target) for node in nodes)
