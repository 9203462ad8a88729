"""Backward computes a compiled graph again: it has to save what the first saved; see test_ranks.py.

A partitioner chooses what that is, with Inductor's decompositions before it, as with Inductor.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import bnfx
from sync.reference import loss_of
from sync.training import Net, images, make, sizes

INNER = "aot_eager_decomp_partition"
again = functools.partial(checkpoint, use_reentrant=False)
Wrap = Callable[[nn.Module], Callable[[torch.Tensor], torch.Tensor]]


def compiled(model: Any, **options: Any) -> Any:
    torch._dynamo.reset()
    options = {"inner": INNER, "sync": "require", **options}
    return torch.compile(model, backend="bnfx", options=options)


def check(wrap: Wrap, model: nn.Module | None = None, steps: int = 1, momenta: Any = ()) -> None:
    """Gradients and running statistics are those of one process with the whole batch."""
    rank, batches = dist.get_rank(), images(sizes())
    model = make() if model is None else model
    expected = make() if isinstance(model, Selective | Within) else copy.deepcopy(model)
    run = wrap(model)
    for step in range(steps):
        for each in (model, expected):
            for norm in each.modules():
                if isinstance(norm, nn.BatchNorm2d) and momenta:
                    norm.momentum = momenta[step]
        parts = expected(torch.cat(batches)).split(sizes())
        sum(loss_of(part, r) for r, part in enumerate(parts)).backward()
        loss_of(run(batches[rank].clone().requires_grad_()), rank).backward()
    for name, parameter in model.named_parameters():
        dist.all_reduce(parameter.grad)
        torch.testing.assert_close(
            parameter.grad, expected.get_parameter(name).grad, rtol=1e-9, atol=1e-9
        )
    for name, buffer in model.named_buffers():
        right = expected.get_buffer(name)
        torch.testing.assert_close(buffer, right, rtol=1e-9, atol=1e-9)


def around_reentrant(model: nn.Module) -> Any:
    return functools.partial(checkpoint, compiled(model), use_reentrant=True)


def around(model: nn.Module) -> Any:
    return functools.partial(again, compiled(model))


def of_norms(**options: Any) -> nn.Module:
    model = make()
    for name in ("stem_norm", "left_norm", "right_norm"):
        setattr(model, name, nn.BatchNorm2d(6, **options).double())
    return model


def case_around() -> None:
    check(around, steps=2)


def case_around_reentrant() -> None:
    check(around_reentrant)


def case_twice() -> None:
    check(lambda model: functools.partial(again, around(model)))


def case_computed_momenta() -> None:
    check(around, steps=3, momenta=(0.1, 0.25, 0.4))


def case_whole_momentum() -> None:
    """An integer, which torch takes, too."""
    check(around, of_norms(momentum=1))


def case_average_of_all() -> None:
    """A batch that is counted twice would weigh less in the average than the one after it."""
    check(around, of_norms(momentum=None), steps=3)


def case_average_of_all_with_our_modules() -> None:
    norms = of_norms(momentum=None)
    check(lambda model: around(bnfx.convert_sync_batchnorm(model)), norms, steps=3)


def case_other_layers() -> None:
    check(around, of_norms(affine=False))
    check(around, of_norms(track_running_stats=False))


def case_blocks() -> None:
    """One graph serves several blocks; each is computed again by itself."""
    torch.manual_seed(2)
    kinds = ((3, 5), (5, 5), (5, 5))
    blocks = [
        nn.Sequential(nn.Conv2d(*kind, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()).double()
        for kind in kinds
    ]

    def wrap(model: Any) -> Any:
        torch._dynamo.reset()
        for block in model[:3]:
            block.compile(backend="bnfx", options={"inner": INNER, "sync": "require"})

        def run(x: torch.Tensor) -> torch.Tensor:
            for block in model[:3]:
                x = again(block, x)
            return model[3](x)

        return run

    check(wrap, nn.Sequential(*blocks, nn.Flatten()))


def case_our_modules() -> None:
    check(lambda model: around(bnfx.convert_sync_batchnorm(model)))


class Selective(Net):
    """Within one graph: convolutions are saved, the rest is computed again.

    In eager mode, torch would note running statistics twice; what is right is ``Net``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            saved = op is torch.ops.aten.convolution.default
            return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        return again(super().forward, x, context_fn=contexts)


def case_selective() -> None:
    check(compiled, make(Selective))


class Within(Net):
    """The compiled graph, which is computed again, has a checkpointed block within."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return again(super().forward, x)


def case_within() -> None:
    check(around, make(Within))
    check(around_reentrant, make(Within))
