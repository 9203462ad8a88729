"""``BNFX_SYNC_DEBUG=1``: ranks say what they are about to do, and compare, before each collective.

Ranks whose collectives do not match hang, or add up what does not belong together. With the
variable set, each rank writes a line into the process group's store before each collective, and
reads its peers' lines: the first that differs raises on all ranks, and so does a rank that does not
come within the group's timeout. It costs a round trip to the store a collective, and waits for the
device: it is for finding an error, not for training.
"""

from __future__ import annotations

from collections import Counter
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from bnfx.errors import MismatchError
from bnfx.sync.group import is_debugging, is_up

# How many collectives of each group this process has compared.
_done: WeakKeyDictionary[dist.ProcessGroup, int] = WeakKeyDictionary()


def compared(row: torch.Tensor, what: str, name: str) -> torch.Tensor:
    """``row``, once all ranks of the group have said the same ``what``.

    An op of its own, so that it stands in compiled graphs right before the collective.

    Args:
        what: ``"key=value; ..."``.
        name: of the process group.

    Raises:
        MismatchError: naming the ranks that differ, or the one that is missing.
    """
    return torch.ops.bnfx_sync.compared(row, what, name)  # type: ignore[no-any-return]


@torch.library.custom_op("bnfx_sync::compared", mutates_args=())
def _compared(row: torch.Tensor, what: str, name: str) -> torch.Tensor:
    group = torch._C._distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
    _compare(what, group, row.device)
    return row.clone()


@_compared.register_fake
def _(row: torch.Tensor, what: str, name: str) -> torch.Tensor:
    return torch.empty_like(row)


def note_evaluation(path: str) -> None:
    """Leave a word for peers who may wait for this rank: it runs a layer in evaluation."""
    if not torch.compiler.is_compiling() and is_debugging() and is_up():
        c10d._get_default_store().set(f"bnfx/evaluation/{dist.get_rank()}", path or "a layer")


def _compare(what: str, group: dist.ProcessGroup, device: torch.device) -> None:
    store = c10d._world.pg_map[group][1]
    timeout = group._get_backend(device).options._timeout
    rank = dist.get_rank()
    step = _done[group] = _done.get(group, 0) + 1
    store.set(f"bnfx/{step}/{rank}", what)
    said: dict[int, str] = {}
    for each in dist.get_process_group_ranks(group):
        try:
            store.wait([f"bnfx/{step}/{each}"], timeout)
        except RuntimeError as error:
            raise MismatchError(
                f"rank {each} did not come to share statistics within {timeout}: it ended, or runs "
                f"something else{_evaluating(each)}. Rank {rank} is at\n  {what}"
            ) from error
        said[each] = store.get(f"bnfx/{step}/{each}").decode()
    if len(set(said.values())) > 1:
        raise MismatchError(_message(said))
    if step > 2:  # that far back, every rank has read it
        store.delete_key(f"bnfx/{step - 2}/{rank}")


def _evaluating(rank: int) -> str:
    store, key = c10d._get_default_store(), f"bnfx/evaluation/{rank}"
    if not store.check([key]):
        return ""
    return f" (it ran {store.get(key).decode()} in evaluation mode)"


def _message(said: dict[int, str]) -> str:
    usual = Counter(said.values()).most_common(1)[0][0]
    odd = [rank for rank, line in said.items() if line != usual]
    fields = [
        dict(part.split("=", 1) for part in text.split("; ")) for text in (usual, said[odd[0]])
    ]
    differing = [key for key in fields[0] if fields[0][key] != fields[1][key]]
    who = "rank " + " and rank ".join(map(str, odd))
    lines = "\n".join(f"  rank {rank}: {line}" for rank, line in said.items())
    what = ", ".join(differing)
    return f"{who} would not share the same statistics as the others: other {what}\n{lines}"
