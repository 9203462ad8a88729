"""With whom a BatchNorm that runs outside of graphs shares its statistics.

It goes by the compiled model that it runs for: the one whose call is on the stack, or the one that
it is a part of, where that part is called by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from bnfx.errors import SyncError, SyncWarning
from bnfx.options import Options
from bnfx.passes.user_warnings import warn
from bnfx.sync.graphs.compiled_call import (
    call_of_another_thread,
    nearest_call,
    path_in,
    path_in_call,
)
from bnfx.sync.graphs.compiled_models import compiled_model_of
from bnfx.sync.graphs.copied import sync_of_original
from bnfx.sync.graphs.places import identity_of, identity_within
from bnfx.sync.graphs.state import current_state
from bnfx.sync.group import Peers, is_recomputing, peers_of
from bnfx.sync.joining import UNEVEN

log = logging.getLogger("bnfx")

NOT_UP = (
    'sync="require", but no process group is up; call torch.distributed.'
    'init_process_group first, or use sync="auto"'
)
# The model all of whose layers share, whoever calls them, and its options; see sharing_everywhere.
_everywhere: list[tuple[nn.Module, Options]] = []
# The layers that took part, with the options of the model that they are part of.
_shared: WeakKeyDictionary[nn.Module, Options] = WeakKeyDictionary()


@contextmanager
def sharing_everywhere(model: nn.Module, options: Options) -> Iterator[None]:
    """Within it, every BatchNorm that trains in eager mode shares its statistics."""
    _everywhere.append((model, options))
    try:
        yield
    finally:
        _everywhere.pop()


def note_shared(module: nn.Module, options: Options) -> None:
    """Remember a layer that shares its statistics, should backward compute it again."""
    _shared[module] = options


@torch._dynamo.disable  # type: ignore[untyped-decorator]
def peers_outside(module: nn.Module) -> Peers | None:
    """With whom a layer that is about to run in eager mode is to share its statistics, if so.

    Raises:
        SyncError: if ``sync="require"`` cannot be met.
    """
    is_within, call = (True, None) if _everywhere else nearest_call()
    if _everywhere:
        _, options = _everywhere[-1]
    elif call is not None:
        options = call.options
    elif is_recomputing() and module in _shared:
        options = _shared[module]
    elif is_within or (found := _options_without_a_call(module)) is None:
        return None
    else:
        options = found
    if options.sync == "off":
        return None
    try:
        state = current_state(options.process_group)
    except ValueError as error:
        raise SyncError(f"the process group of the options cannot be used: {error}") from error
    if options.sync == "require" and not state.is_up:
        raise SyncError(f"{path_of(module)} runs in training with {NOT_UP}")
    if state.is_joining and state.peers is not None:
        raise_or_warn(f"{path_of(module)} trains where {UNEVEN}", options.sync == "require")
    if state.peers is not None and module not in _shared:
        log.info("%s runs outside of graphs, and shares its statistics there", path_of(module))
        note_shared(module, options)
    return state.peers


def path_of(module: nn.Module) -> str:
    """Where it stands in the compiled model that runs it, or that it is a part of."""
    path = path_in_call(module)
    if path is not None:
        return path
    found = compiled_model_of(module)
    return type(module).__name__ if found is None else path_in(found[0], module)


def identity_outside(module: nn.Module) -> int:
    """By what ranks tell layers apart."""
    return identity_within(_everywhere[-1][0], module) if _everywhere else identity_of(module)


def say_own_arithmetic(module: nn.Module, options: Options | None = None) -> None:
    """Say that nothing of a BatchNorm's could be shared, as it computes all by itself.

    Args:
        options: by default those with which it took part.
    """
    options = options or _shared.get(module)
    if options is not None:
        message = (
            f"{path_of(module)}, a {type(module).__name__} in training, calls no batch_norm: what "
            "it computes stays this rank's own; call bnfx.sync_batch_norm there, or put the layer "
            "into evaluation"
        )
        raise_or_warn(message, options.sync == "require")


def raise_or_warn(message: str, required: bool) -> None:
    """An error with ``sync="require"``, a warning else."""
    if required:
        raise SyncError(f'sync="require", but {message}')
    warn(message, SyncWarning)


def _options_without_a_call(module: nn.Module) -> Options | None:
    """Those of the compiled model that the layer is a part of, where it is called by itself."""
    call = None if peers_of() is None else call_of_another_thread(module)
    if call is not None:
        _refuse_threads(module, call.options)
        return None
    found = compiled_model_of(module)
    if found is None and peers_of() is not None:
        _say_if_copied(module)
        _look_for_what_disables()
    return None if found is None else found[1]


def _say_if_copied(module: nn.Module) -> None:
    sync = sync_of_original(module)
    if sync is not None:
        message = (
            f"a {type(module).__name__} trains in a copy of a model that was compiled in place; "
            "the copy is not compiled, so it keeps its statistics to itself: compile the copy too, "
            'with options={"sync": "off"} if it is to train alone'
        )
        raise_or_warn(message, sync == "require")


def _refuse_threads(module: nn.Module, options: Options) -> None:
    """Threads run in any order, so ranks would mix up their layers: that is said, not shared."""
    if options.sync == "off":
        return
    message = (
        f"a {type(module).__name__} of a model compiled with bnfx trains in a thread of its own, "
        "where ranks cannot agree on an order, so it keeps its statistics to itself; run it in the "
        "thread that calls the model"
    )
    raise_or_warn(message, options.sync == "require")


def _look_for_what_disables() -> None:
    """Say so where ``torch.compile`` did nothing: there is no compiled call to be seen then."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        warn(
            "TORCHDYNAMO_DISABLE=1 disables torch.compile, so what was compiled with bnfx keeps "
            "its statistics to itself; bnfx.convert_sync_batchnorm(model) makes it share them",
            SyncWarning,
        )
