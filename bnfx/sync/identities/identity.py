"""Moments say whose they are, so that ranks which are at different layers never merge them.

A collective has no name: ranks that come to it from different layers (one is frozen on one rank, a
rank gave up a step and began the next, threads run in another order) would take each other's
statistics for their own. So each row of moments begins with a number that stands for its layer, and
a rank that finds another one raises.

The number holds the last steps of the layer's path in its model, from the last one backwards, eight
bits each. Zero is a step that is not known, and is compared with nothing: a graph that serves
several blocks of one class knows only the steps below the block.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from bnfx.errors import MismatchError

SHIFTS = (0, 8, 16)  # float32 holds all such numbers exactly
# The layers that this process knows, by their numbers; for messages.
_known: dict[int, str] = {}


def identity_of_path(path: str | None) -> int:
    """The number of the layer at this place of its model; the same in each process."""
    steps = path.split(".") if path else []
    number = _packed(_hash(step) for step in reversed(steps))
    if path:
        _known[number] = path
    return number


def combined(numbers: Sequence[int]) -> int:
    """The number of several layers that share a collective."""
    if len(numbers) == 1:
        return numbers[0]
    steps = [[number >> shift & 255 for number in numbers] for shift in SHIFTS]
    return _packed(_hash(str(each)) if all(each) else 0 for each in steps)


def of_one_layer(gathered: torch.Tensor, identity: int, names: str, group: str) -> torch.Tensor:
    """``gathered``, of shape ``(ranks, k)``, with zeros for the numbers in its first column.

    An operator of its own, on whose result all else depends, so that no compiler can leave it out.
    Where the device is no CPU, it does not wait for it: the device itself raises, later.

    Args:
        identity: this rank's number.
        names: of this rank's layers, for the message.
        group: the name of the process group.

    Raises:
        MismatchError: if a rank has another number.
    """
    return torch.ops.bnfx_sync.of_one_layer(gathered, identity, names, group)  # type: ignore[no-any-return]


torch.library.define(
    "bnfx_sync::of_one_layer", "(Tensor gathered, int identity, str names, str group) -> Tensor"
)


@torch.library.impl("bnfx_sync::of_one_layer", "CompositeExplicitAutograd")
def _(gathered: torch.Tensor, identity: int, names: str, group: str) -> torch.Tensor:
    if gathered.device.type == "cpu":
        _compare([int(each) for each in gathered[:, 0].tolist()], identity, names, group)
    elif identity:
        said = gathered[:, 0].int()
        alike = torch.ones_like(said, dtype=torch.bool)
        for shift in SHIFTS:
            step, own = said >> shift & 255, identity >> shift & 255
            alike &= (step == own) | (step == 0) | (own == 0)
        message = f"BatchNorm {names}: another rank shares the statistics of another layer"
        torch._assert_async(alike.all(), message)
    result = gathered.clone()
    result[:, 0] = 0
    return result


@torch.library.register_fake("bnfx_sync::of_one_layer")  # type: ignore[untyped-decorator]
def _(gathered: torch.Tensor, identity: int, names: str, group: str) -> torch.Tensor:
    return torch.empty_like(gathered)


def _hash(step: str) -> int:
    return 1 + zlib.crc32(step.encode()) % 255


def _packed(steps: Iterable[int]) -> int:
    return sum(step << shift for step, shift in zip(steps, SHIFTS, strict=False))


def _is_same(first: int, second: int) -> bool:
    """Whether the steps that both know are the same."""
    pairs = ((first >> shift & 255, second >> shift & 255) for shift in SHIFTS)
    return all(one == other or not one or not other for one, other in pairs)


def _compare(said: list[int], identity: int, names: str, group: str) -> None:
    odd = next((place for place, each in enumerate(said) if not _is_same(each, identity)), None)
    if odd is None:
        return
    found = torch._C._distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]
    other = dist.get_process_group_ranks(found)[odd]
    alike = (name for number, name in _known.items() if _is_same(number, said[odd]))
    layer = _known.get(said[odd]) or next(alike, "one that this rank does not know")
    raise MismatchError(
        f"rank {dist.get_rank()} is at BatchNorm {names}, and rank {other} at {layer}: all ranks "
        "must train the same layers in the same order, or they would mix up statistics. Is a layer "
        "frozen, skipped or added on one rank alone, did a rank give up a step, or do threads run "
        "parts of a model?"
    )
