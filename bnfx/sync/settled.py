"""What follows the gathering of moments, as two operators of compiled graphs on CPU.

It is arithmetic on a few vectors of C numbers, some thirty small operators a layer. Inductor would
trace, fuse and compile each of them, which takes longer than all the rest of a BatchNorm and gains
nothing that can be measured. On other devices each operator is a launch, so there they are traced
and fused.

Both operators read the gathered moments, and neither reads what the other gives. So the update of
running statistics, which a recomputation in backward leaves out, has no say in which tensors a
partitioner saves: activation checkpointing wants both graphs to save the same.
"""

from __future__ import annotations

import torch

from bnfx.sync.moments import merge, updated

torch.library.define("bnfx_sync::merged", "(Tensor moments, float eps) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "bnfx_sync::updated",
    "(Tensor moments, Tensor running_mean, Tensor running_var, float momentum) -> (Tensor, Tensor)",
)


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
        The number of values a channel, shape ``(1,)``; mean and ``1/sqrt(var + eps)``, ``(C,)``.
    """
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if not (compiling and moments.device.type == "cpu"):
        new = merge(moments)
        if running_mean is not None and running_var is not None:
            means, variances = updated(running_mean, running_var, momentum, new)
            running_mean.copy_(means)
            running_var.copy_(variances)
        return new.total, new.mean, torch.rsqrt(new.var + eps)
    total, mean, invstd = torch.ops.bnfx_sync.merged(moments, eps)
    if running_mean is not None and running_var is not None:
        if isinstance(momentum, (float, int)):
            means, variances = torch.ops.bnfx_sync.updated(
                moments, running_mean, running_var, momentum
            )
        else:  # computed in the graph
            means, variances = updated(running_mean, running_var, momentum, merge(moments))
        running_mean.copy_(means)
        running_var.copy_(variances)
    return total, mean, invstd


@torch.library.impl("bnfx_sync::merged", "CompositeExplicitAutograd")
def _(moments: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    new = merge(moments)
    return new.total, new.mean, torch.rsqrt(new.var + eps)


@torch.library.impl("bnfx_sync::updated", "CompositeExplicitAutograd")
def _(
    moments: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return updated(running_mean, running_var, momentum, merge(moments))


@torch.library.register_fake("bnfx_sync::merged")  # type: ignore[untyped-decorator]
def _(moments: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    channels = (moments.shape[1] - 1) // 2
    return moments.new_empty(1), moments.new_empty(channels), moments.new_empty(channels)


@torch.library.register_fake("bnfx_sync::updated")  # type: ignore[untyped-decorator]
def _(
    moments: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(running_mean), torch.empty_like(running_var)
