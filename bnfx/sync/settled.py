"""What stands between the collectives and the arithmetic on whole batches, in compiled graphs.

It is some thirty small operators a layer on a few vectors of C numbers. On CPU, Inductor would
trace, fuse and compile each of them, which takes longer than all the rest of a BatchNorm and gains
nothing that can be measured. So there it is three operators that no compiler looks into. On other
devices each operator is a launch, so it is traced and fused.

The number that stands for a layer (:mod:`bnfx.sync.identities`) is added by an operator everywhere:
a compiler would write it into its code as a constant, so that no two layers had a kernel in common,
and each kernel is compiled by itself.

Both operators behind the collective read the gathered moments, and neither reads what the other
gives. So the update of running statistics, which a recomputation in backward leaves out, has no say
in which tensors a partitioner saves: activation checkpointing wants both graphs to save the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bnfx.sync.moments import Moments, Statistics, merge, updated

torch.library.define(
    "bnfx_sync::packed",
    "(Tensor token, int identity, SymInt[] counts, Tensor[] moments) -> Tensor",
)
torch.library.define("bnfx_sync::named", "(Tensor token, int identity) -> Tensor")
torch.library.define("bnfx_sync::merged", "(Tensor moments, float eps) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "bnfx_sync::update_",
    "(Tensor moments, Tensor(a!) running_mean, Tensor(b!) running_var, float momentum) -> ()",
)


def pack(token: torch.Tensor, identity: int, moments: Sequence[Moments]) -> torch.Tensor:
    """The row of numbers that this rank sends.

    Args:
        token: of no or one element; see :mod:`bnfx.sync.normalise`.
        identity: of the layers, to be added to the token; see :mod:`bnfx.sync.identities.identity`.
        moments: of each layer.

    Returns:
        The token, then count, mean and M2 of each layer in turn: ``(1 + 2C,)``.
    """
    if _is_traced_for_cpu(token):
        counts = [each.count for each in moments]
        vectors = [vector for each in moments for vector in (each.mean, each.m2)]
        return torch.ops.bnfx_sync.packed(token, identity, counts, vectors)  # type: ignore[no-any-return]
    if token.numel() and _is_traced():
        token = torch.ops.bnfx_sync.named(token, identity)
    else:
        token = token + identity
    return torch.cat([token, *(each.row() for each in moments)])


def settle(
    moments: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float | torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merge the moments of all ranks, and update the running statistics, if there are any.

    Args:
        moments: shape ``(ranks, 1 + 2C)``; see :func:`bnfx.sync.moments.merge`.
        running_mean, running_var: shape ``(C,)``, updated in place; both ``None`` for none.
        momentum, eps: of the layer.

    Returns:
        The number of values a channel, at least 1, of shape ``(1,)``; mean and
        ``1/sqrt(var + eps)``, ``(C,)``.
    """
    if not _is_traced_for_cpu(moments):
        new = merge(moments)
        if running_mean is not None and running_var is not None:
            _note(running_mean, running_var, momentum, new)
        return _for_normalising(new, eps)
    if running_mean is not None and running_var is not None:
        if isinstance(momentum, (float, int)):
            torch.ops.bnfx_sync.update_(moments, running_mean, running_var, momentum)
        else:  # computed in the graph
            _note(running_mean, running_var, momentum, merge(moments))
    return torch.ops.bnfx_sync.merged(moments, eps)  # type: ignore[no-any-return]


def _note(
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    momentum: float | torch.Tensor,
    statistics: Statistics,
) -> None:
    means, variances = updated(running_mean, running_var, momentum, statistics)
    running_mean.copy_(means)
    running_var.copy_(variances)


def _for_normalising(
    new: Statistics, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return new.total.clamp(min=1), new.mean, torch.rsqrt(new.var + eps)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def _is_traced_for_cpu(x: torch.Tensor) -> bool:
    return _is_traced() and x.device.type == "cpu"


@torch.library.impl("bnfx_sync::packed", "CompositeExplicitAutograd")
def _(
    token: torch.Tensor, identity: int, counts: Sequence[int], moments: Sequence[torch.Tensor]
) -> torch.Tensor:
    pairs = zip(counts, moments[::2], moments[1::2], strict=True)
    return torch.cat([token + identity, *(Moments(*each).row() for each in pairs)])


@torch.library.register_fake("bnfx_sync::packed")  # type: ignore[untyped-decorator]
def _(
    token: torch.Tensor, identity: int, counts: Sequence[int], moments: Sequence[torch.Tensor]
) -> torch.Tensor:
    sizes = [vector.shape[0] for vector in moments]
    return token.new_empty(token.shape[0] + len(counts) + sum(sizes))


@torch.library.impl("bnfx_sync::named", "CompositeExplicitAutograd")
def _(token: torch.Tensor, identity: int) -> torch.Tensor:
    return token + identity


@torch.library.register_fake("bnfx_sync::named")  # type: ignore[untyped-decorator]
def _(token: torch.Tensor, identity: int) -> torch.Tensor:
    return torch.empty_like(token)


@torch.library.impl("bnfx_sync::merged", "CompositeExplicitAutograd")
def _(moments: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    return _for_normalising(merge(moments), eps)


@torch.library.register_fake("bnfx_sync::merged")  # type: ignore[untyped-decorator]
def _(moments: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    channels = (moments.shape[1] - 1) // 2
    return moments.new_empty(1), moments.new_empty(channels), moments.new_empty(channels)


@torch.library.impl("bnfx_sync::update_", "CompositeExplicitAutograd")
def _(
    moments: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float
) -> None:
    _note(running_mean, running_var, momentum, merge(moments))


@torch.library.register_fake("bnfx_sync::update_")  # type: ignore[untyped-decorator]
def _(
    moments: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float
) -> None:
    return None
