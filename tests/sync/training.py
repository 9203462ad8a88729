"""Whole models: this rank's training step, and what one process with all batches does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from sync.reference import loss_of


class Net(nn.Module):
    """Convolutions and BatchNorms, two of them side by side; a head that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.left, self.left_norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.right, self.right_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, momentum=0.3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(self.left_norm(self.left(x)) + self.right_norm(self.right(x)))
        return self.head(x.mean((2, 3)))


def make(kind: Callable[[], nn.Module] = Net, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same model on all ranks, with statistics that are no identity."""
    torch.manual_seed(1)
    model = kind().to(dtype)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
    return model


def images(
    sizes: Sequence[int], side: int = 6, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Each rank's batch; ranks differ in mean and spread."""
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64) * (1 + rank)
            + rank
        ).to(dtype)
        for rank, n in enumerate(sizes)
    ]


def sizes() -> list[int]:
    """Another batch size on each rank."""
    return [2 + rank for rank in range(dist.get_world_size())]


def train(
    run: Callable[[torch.Tensor], torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    steps: int = 2,
    averaged: bool = False,
) -> None:
    """Steps of SGD on the mean of all ranks' losses.

    Args:
        run: the compiled model.
        model: whose parameters it trains.
        averaged: whether gradients are averaged over ranks by ``run`` itself, as DDP does.
    """
    for _ in range(steps):
        loss_of(run(x), dist.get_rank()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is None:
                    continue
                if not averaged:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None


def train_alone(model: nn.Module, batches: Sequence[torch.Tensor], steps: int = 2) -> nn.Module:
    """What one process makes of ``model`` with all ranks' batches; ``model`` is left alone."""
    model = copy.deepcopy(model)
    for _ in range(steps):
        outputs = model(torch.cat(list(batches))).split([len(batch) for batch in batches])
        losses = [loss_of(output, rank) for rank, output in enumerate(outputs)]
        (sum(losses) / len(losses)).backward()  # type: ignore[operator, union-attr]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
                    parameter.grad = None
    return model


def assert_alike(model: nn.Module, expected: nn.Module, tolerance: float = 1e-10) -> None:
    """The same parameters and buffers."""
    state, right = model.state_dict(), expected.state_dict()
    assert state.keys() == right.keys()
    for name, value in right.items():
        error = float((state[name].double() - value.double()).abs().max())
        limit = tolerance * max(1.0, float(value.double().abs().max()))
        assert error <= limit, f"{name}: {error:.2e} is above {limit:.1e}"
