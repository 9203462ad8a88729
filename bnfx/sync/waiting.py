"""Says which BatchNorm waited for its peers, and on which rank, when a collective fails."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from bnfx.errors import SyncError
from bnfx.sync.group import DEBUG_VARIABLE

_lock = threading.Lock()
# The thread that shares statistics over each group, and how many of these it is within.
_within: dict[str, tuple[int, int]] = {}


@contextmanager
def naming_layers(names: Callable[[], str], group: str) -> Iterator[None]:
    """What a collective raises within it comes as a :class:`SyncError` that names the layers.

    Args:
        names: gives the names of the BatchNorms, for people.
        group: the name of the process group, within which one thread at a time may wait.

    Raises:
        SyncError: also if another thread shares statistics over this group at the same time: ranks
            could not agree which of them comes first.
    """
    try:
        with _one_thread(names, group):
            yield
    except RuntimeError as error:
        if isinstance(error, SyncError) or not _is_of_a_collective(error):
            raise
        raise SyncError(
            f"rank {dist.get_rank()} was to share the statistics of BatchNorm {names()}, and a "
            "peer did not come: it ended, still compiles (raise the timeout of "
            f"init_process_group), or runs something else ({DEBUG_VARIABLE}=1 says what; "
            "torch.compiler.set_enable_guard_collectives(True) makes ranks compile together). "
            f"The collective said: {error}"
        ) from error


@contextmanager
def _one_thread(names: Callable[[], str], group: str) -> Iterator[None]:
    here = threading.get_ident()
    with _lock:
        there, depth = _within.get(group, (here, 0))
        if there == here:
            _within[group] = here, depth + 1
    if there != here:
        raise SyncError(
            f"BatchNorm {names()} is to share its statistics while another thread shares some over "
            "the same process group, so ranks cannot agree which comes first; train in one thread, "
            "or give each model a process group of its own (options process_group)"
        )
    try:
        yield
    finally:
        with _lock:
            if depth:
                _within[group] = here, depth
            else:
                del _within[group]


def naming(compiled: Callable[..., Any], names: tuple[str, ...], group: str) -> Callable[..., Any]:
    """``compiled``, a graph in which these layers share statistics, under :func:`naming_layers`."""
    if not names:
        return compiled
    shown = names[0] if len(names) == 1 else f"{names[0]} (or one of the {len(names) - 1} after it)"

    @functools.wraps(compiled)
    def named(*args: Any, **kwargs: Any) -> Any:
        with naming_layers(lambda: shown, group):
            result = compiled(*args, **kwargs)
        _name_in_backward(result, shown, group)
        return result

    return named


def _name_in_backward(result: Any, names: str, group: str) -> None:
    """Have the backward of a graph say which layers waited, too.

    AOTAutograd makes a class for each graph, an autograd function, whose backward runs the graph's.
    """
    for output in result if isinstance(result, (tuple, list)) else (result,):
        graph: Any = getattr(getattr(output, "grad_fn", None), "_forward_cls", None)
        if not hasattr(graph, "compiled_bw") or "_names" in vars(graph):
            continue  # of another's making, where the collective's own message stands
        graph._names = names
        graph.backward = staticmethod(_naming_backward(graph.backward, names, group))


def _naming_backward(backward: Callable[..., Any], names: str, group: str) -> Callable[..., Any]:
    @functools.wraps(backward)
    def named(*args: Any) -> Any:
        with naming_layers(lambda: names, group):
            return backward(*args)

    return named


def _is_of_a_collective(error: RuntimeError) -> bool:
    known = getattr(dist, "DistError", ())
    return isinstance(error, known) or "gloo" in str(error).lower()
