"""The two collectives, in the functional form that compilers keep in their graphs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed._functional_collectives  # registers what traces the ops below

_ops = torch.ops._c10d_functional


def gather(row: torch.Tensor, name: str, size: int) -> torch.Tensor:
    """Each rank's ``row``, of shape ``(k,)``, stacked to ``(size, k)`` in the order of ranks."""
    gathered: torch.Tensor = _ops.wait_tensor(
        _ops.all_gather_into_tensor(row.contiguous(), size, name)
    )
    return gathered.view(size, -1)


def add_up(row: torch.Tensor, name: str) -> torch.Tensor:
    """The sum of all ranks' ``row``; not differentiable."""
    total: torch.Tensor = _ops.wait_tensor(_ops.all_reduce(row.contiguous(), "sum", name))
    return total


class AddUp(torch.autograd.Function):
    """:func:`add_up`, differentiable any number of times.

    Each rank's input reaches each rank's output with weight one, so the gradient of a rank's input
    is the sum of all ranks' output gradients: the same operation.
    """

    @staticmethod
    def forward(ctx: Any, row: torch.Tensor, name: str) -> torch.Tensor:
        ctx.group_name = name
        return add_up(row, name)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return AddUp.apply(grads[0], ctx.group_name), None
