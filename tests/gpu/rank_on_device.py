"""One rank of test_ranks_on_device.py: SyncBatchNorm and DDP with tensors on the device."""

from __future__ import annotations

import copy
import sys

import torch
import torch.distributed as dist
from gpu.nets import without_tf32
from support import randomise, relative
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bnfx


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 2)]
    return randomise(nn.Sequential(*parts)).double().train()


def batch() -> torch.Tensor:
    return torch.randn(
        8, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def check(model: nn.Module, call: nn.Module, rank: int, world: int, device: str) -> None:
    """One step's statistics and gradients are those of one process with the whole batch."""
    whole = net().to(device)
    x = batch().to(device)
    whole(x).square().sum().backward()
    cut = 5 if world == 2 else 8  # uneven
    own = x[:cut] if rank == 0 else x[cut:]
    call(own).square().sum().backward()
    scale = 1 if isinstance(call, DistributedDataParallel) else 0
    for (name, ours), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
        gradient = ours.grad.clone()
        if scale:
            gradient *= world  # DDP's mean
        else:
            dist.all_reduce(gradient)
        # A bias before a BatchNorm has a gradient that is rounding alone.
        if theirs.grad.abs().max() > 1e-6:
            assert relative(gradient, theirs.grad) < 1e-9, name
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert relative(buffer, whole.get_buffer(name)) < 1e-12, name


def main() -> None:
    rank, world, file, backend, device = sys.argv[1:]
    rank, world = int(rank), int(world)
    dist.init_process_group(backend, init_method=f"file://{file}", rank=rank, world_size=world)
    with without_tf32():
        model = net().to(device)
        options = {"inner": "aot_eager"}
        check(model, torch.compile(model, backend="bnfx", options=options), rank, world, device)
        model = bnfx.convert_sync_batchnorm(net()).to(device)
        check(model, model, rank, world, device)
        model = net().to(device)
        wrapped = DistributedDataParallel(
            torch.compile(model, backend="bnfx", options=options), gradient_as_bucket_view=False
        )
        check(model, wrapped, rank, world, device)
        evaluated = copy.deepcopy(model).eval()
        with torch.no_grad():
            x = batch().to(device)
            compiled = torch.compile(evaluated, backend="bnfx", options=options)
            assert relative(compiled(x), evaluated(x)) < 1e-10
            # Collectives leave no mark.
            for buffer in evaluated.buffers():
                if buffer.is_floating_point():
                    buffer.data.add_(rank)
                    dist.broadcast(buffer, 0)
                    dist.all_reduce(buffer)
            assert relative(compiled(x), evaluated(x)) < 1e-10
    dist.destroy_process_group()
    print("checked", flush=True)


if __name__ == "__main__":
    main()
