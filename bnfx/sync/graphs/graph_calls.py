"""What the backend puts into graphs, and where."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor import config as inductor_config
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.errors import SyncError
from bnfx.options import Options
from bnfx.passes.fx.metadata import location_of, name_of
from bnfx.passes.fx.training.synchronise import Swapped, graph_modules, in_training, synchronise
from bnfx.passes.fx.training.uncounted import without_counting
from bnfx.sync import collectives, diagnosis, functional, moments, normalise, settled
from bnfx.sync.functional import Layer
from bnfx.sync.graphs.compiled_call import can_see_calls, current_call
from bnfx.sync.graphs.outside import cover_batch_norms
from bnfx.sync.graphs.own_arithmetic import own_arithmetic
from bnfx.sync.graphs.owner import owner_of, root_of
from bnfx.sync.graphs.ownership import NOT_UP, note_shared, raise_or_warn, say_own_arithmetic
from bnfx.sync.graphs.places import identity_within
from bnfx.sync.graphs.state import current_state, guard_state
from bnfx.sync.group import Peers
from bnfx.sync.identities import identity, identity_backward
from bnfx.sync.joining import UNEVEN
from bnfx.sync.module import SyncBatchNorm

_TRACED = (
    *(sys.modules[__name__], functional, normalise, moments, settled),
    *(collectives, diagnosis, identity, identity_backward),
)


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
    cover_batch_norms()  # classes may have come since
    found, odd = list(in_training(module)), own_arithmetic(module)
    if not found and not odd and not _communicates(module):
        return Swapped(module)
    try:
        state = current_state(options.process_group)
    except ValueError as error:
        raise SyncError(f"the process group of the options cannot be used: {error}") from error
    guard_state(options.process_group, state)
    required = options.sync == "require"
    if required and not state.is_up:
        raise SyncError(NOT_UP)
    if state.peers is None:
        return Swapped(module)
    if state.is_joining and found:
        raise_or_warn(f"{name_of(found[0])} trains where {UNEVEN}", required)
    for layer in odd:
        say_own_arithmetic(layer, options)
    if not can_see_calls():
        _say_that_calls_are_hidden(required)
    _look_ahead(found, required)
    _allow_caching()
    constants = {**asdict(state.peers), "tracking": not state.recomputing}
    for node in found:
        owner = owner_of(node)
        if owner is not None:
            note_shared(owner, options)
    if state.recomputing:
        module = without_counting(module, [node for node in found if _is_in_training(node)])
    call = current_call()
    # A rank that stops compiling runs each layer by itself: peers' graphs must match that.
    share = call is not None and call.whole
    swapped = synchronise(module, _is_in_training, sync_batch_norms, constants, share, _labels)
    left = [node for node in in_training(swapped.module) if _is_in_training(node)]
    if left:
        message = (
            f"{name_of(left[0])} ({left[0].name}) is no BatchNorm that can be synchronised (it "
            "returns statistics, or computes its training flag), so it keeps them to itself"
        )
        raise_or_warn(message, required)
    return swapped


def _look_ahead(found: Sequence[fx.Node], required: bool) -> None:
    """Say so where this is the last graph that Dynamo makes of code that calls ``F.batch_norm``.

    From then on the code runs outside, where layers are seen, but not what calls the function.
    """
    compile_id = torch._guards.CompileContext.current_compile_id()
    call, limit = current_call(), torch._dynamo.config.recompile_limit
    if compile_id is None or call is None or call.whole:
        return
    if (compile_id.frame_compile_id or 0) + 1 < limit:
        return
    for node in found:
        if isinstance(owner_of(node), _BatchNorm):
            continue
        message = (
            f"{name_of(node)} ({location_of(node)}) is a call of F.batch_norm in code of which "
            f"Dynamo has made as many graphs as it may (recompile_limit={limit}); from now on it "
            "may run outside of graphs, where it keeps its statistics to itself: use a BatchNorm "
            "module, or call bnfx.sync_batch_norm"
        )
        raise_or_warn(message, required)
        return


def _say_that_calls_are_hidden(required: bool) -> None:
    """Of what Dynamo leaves outside of graphs, nothing would be seen."""
    message = (
        f"torch {torch.__version__} does not show which compiled model runs a BatchNorm outside of "
        "graphs, which would keep its statistics to itself; "
        "bnfx.convert_sync_batchnorm(model) makes all of them share"
    )
    raise_or_warn(message, required)


def _is_in_training(node: fx.Node) -> bool:
    """Not a layer in evaluation without running statistics, which uses its batch, but alone."""
    owner = owner_of(node)
    return owner is None or (owner.training and not isinstance(owner, SyncBatchNorm))


def _labels(node: fx.Node) -> tuple[str, int]:
    """The last fields of :class:`Layer`."""
    owner = owner_of(node)
    return name_of(node), 0 if owner is None else identity_within(root_of(node), owner)


def _communicates(module: fx.GraphModule) -> bool:
    """Whether a SyncBatchNorm of ours was traced into the graph, or into one nested in it."""
    nodes = (node for each in graph_modules(module) for node in each.graph.nodes)
    return any("_c10d_functional" in str(node.target) for node in nodes)
