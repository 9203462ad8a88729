"""Gradients of shared statistics say whose they are, as the moments do.

Where a rank needs no gradient of a layer that others need one of (a convolution is frozen there, or
its loss reads another output), it leaves out that layer's all-reduce, and would add the next
layer's sums to theirs. So each row begins with numbers of which the sums tell whether all ranks
sent the same: for each half of each step of the layer's path (four bits, ``v``;
:mod:`bnfx.sync.identities.identity`), and the ranks that know it, ``1``, ``v`` and ``v*v`` are
added up; all ``v`` are equal if and only if ``n * sum(v*v) == sum(v)**2`` (Cauchy and Schwarz).
float32 holds these sums of 2^16 ranks exactly.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from bnfx.errors import MismatchError
from bnfx.sync.identities.identity import SHIFTS

_SENT = 5 * len(SHIFTS)

torch.library.define("bnfx_sync::name_backward", "(Tensor token, int identity) -> Tensor")
torch.library.define(
    "bnfx_sync::of_one_layer_backward", "(Tensor shared, int start, str names) -> Tensor"
)


def name_backward(token: torch.Tensor, identity: int) -> torch.Tensor:
    """The numbers of a layer, in the dtype of the token, shape ``(15,)``."""
    return torch.ops.bnfx_sync.name_backward(token.detach(), identity)  # type: ignore[no-any-return]


def of_one_layer_backward(shared: torch.Tensor, start: int, names: str) -> torch.Tensor:
    """``shared``, which was added up over all ranks, with a layer's numbers from ``start`` on.

    An operator of its own, on whose result all else depends. Where the device is no CPU, it does
    not wait for it: the device itself raises, later.

    Raises:
        MismatchError: if ranks sent the numbers of several layers.
    """
    return torch.ops.bnfx_sync.of_one_layer_backward(shared, start, names)  # type: ignore[no-any-return]


@torch.library.impl("bnfx_sync::name_backward", "CompositeExplicitAutograd")
def _(token: torch.Tensor, identity: int) -> torch.Tensor:
    sent: list[int] = []
    for shift in SHIFTS:
        step = identity >> shift & 255
        low, high = step & 15, step >> 4
        sent += [int(step != 0), low, low * low, high, high * high]
    return torch.tensor(sent, dtype=token.dtype, device=token.device)


@torch.library.register_fake("bnfx_sync::name_backward")  # type: ignore[untyped-decorator]
def _(token: torch.Tensor, identity: int) -> torch.Tensor:
    return token.new_empty(_SENT)


@torch.library.impl("bnfx_sync::of_one_layer_backward", "CompositeExplicitAutograd")
def _(shared: torch.Tensor, start: int, names: str) -> torch.Tensor:
    added = shared[start : start + _SENT].double().view(len(SHIFTS), 5)
    known, halves = added[:, :1], added[:, 1:].view(-1, 2, 2)
    alike = (known * halves[..., 1] == halves[..., 0] ** 2).all()
    if shared.device.type != "cpu":
        message = f"BatchNorm {names}: another rank goes back through another layer"
        torch._assert_async(alike, message)
    elif not alike:
        raise MismatchError(
            f"rank {dist.get_rank()} goes back through BatchNorm {names}, and another rank through "
            "another layer: all ranks must need gradients of the same layers, or they would mix "
            "up statistics. Is a convolution frozen on one rank alone, or does each rank's loss "
            "read another output?"
        )
    return shared.clone()


@torch.library.register_fake("bnfx_sync::of_one_layer_backward")  # type: ignore[untyped-decorator]
def _(shared: torch.Tensor, start: int, names: str) -> torch.Tensor:
    return torch.empty_like(shared)
