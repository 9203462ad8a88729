"""Segmentation with one image a rank: local BatchNorm against statistics shared by bnfx.

torchrun --nproc-per-node 2 examples/train_ddp.py [--steps 60]

Both models train under DDP on the same images, from the same weights. Beside them runs the truth:
one process with the images of all ranks as its batch. Printed are the losses in training and in
evaluation, and how far running statistics end up from the truth's. Run as a plain script, it starts
two ranks by itself, in a small form.
"""

import argparse
import copy
import os
import subprocess
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Segmenter(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((1, 8), (8, 16), (16, 8)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(fan_out), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(8, 1, 1))


def sample(step: int, rank: int, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc to be found, and its mask; brightness differs much from image to image."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    centre, radius, light = torch.rand(3, generator=generator).tolist()
    across = torch.arange(side) / side
    distance = (across[:, None] - 0.2 - 0.6 * centre) ** 2 + (across[None] - 0.5) ** 2
    mask = (distance < (0.15 + 0.2 * radius) ** 2).float()[None, None]
    noise = torch.randn(mask.shape, generator=generator)
    return (mask + 0.3 * noise) * (0.5 + 2 * light) + 4 * light, mask


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x, mask) -> float:
    loss = F.binary_cross_entropy_with_logits(model(x), mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def deviation(model: nn.Module, truth: nn.Module) -> float:
    """Largest difference of a running statistic, relative to the largest of its layer."""
    pairs = zip(model.named_buffers(), truth.named_buffers(), strict=True)
    return max(
        float((own - right).abs().max() / right.abs().max())
        for (name, own), (_, right) in pairs
        if "running" in name
    )


@torch.no_grad()
def evaluated(model: nn.Module) -> float:
    """The loss on images that were not trained on, with running statistics."""
    images, masks = zip(*(sample(-1 - each, 0) for each in range(32)), strict=True)
    return F.binary_cross_entropy_with_logits(
        model.eval()(torch.cat(images)), torch.cat(masks)
    ).item()


def main(steps: int, inner: str) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    truth = Segmenter()
    local, shared = copy.deepcopy(truth), copy.deepcopy(truth)
    runs: dict[str, nn.Module] = {"one process": truth}
    for name, model, sync in (("local BatchNorm", local, "off"), ("bnfx", shared, "require")):
        model.compile(backend="bnfx", options={"sync": sync, "inner": inner})
        runs[name] = DistributedDataParallel(model)
    optimizers = {name: torch.optim.SGD(m.parameters(), lr=0.2) for name, m in runs.items()}
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(steps):
        images, masks = zip(*(sample(step, each) for each in range(world)), strict=True)
        for name, model in runs.items():
            mine = slice(None) if model is truth else slice(rank, rank + 1)
            x, mask = torch.cat(images)[mine], torch.cat(masks)[mine]
            losses[name].append(train_step(model, optimizers[name], x, mask))
    last = torch.tensor([sum(some[-10:]) / len(some[-10:]) for some in losses.values()])
    dist.all_reduce(last)
    if rank == 0:
        print(f"{world} ranks, one image each, {steps} steps; training loss over the last 10")
        for (name, model), loss in zip(runs.items(), last / world, strict=True):
            own = getattr(model, "module", model)
            own = nn.Sequential(*own)  # without its compiled form
            print(
                f"{name:16} loss {loss:.3f}, evaluated {evaluated(own):.3f}, "
                f"running statistics off by {deviation(own, nn.Sequential(*truth)):.1e}"
            )
        assert deviation(shared, truth) < 1e-3 < deviation(local, truth)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--inner", default="inductor")
    given = parser.parse_args()
    if "RANK" in os.environ:
        torch.set_num_threads(1)
        main(given.steps, given.inner)
    else:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        small = ["--standalone", __file__, "--inner", "aot_eager", "--steps", str(given.steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        sys.exit(subprocess.run([*launch, *small], env=environment).returncode)
