"""What can happen to a model between two calls: the steps of the randomised staleness test."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from support import randomise
from torch import nn

import bnfx


class Net(nn.Module):
    """Small, but with every place that a fold reads from: before, behind, and not at all."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.pre, self.norm = nn.BatchNorm2d(2), nn.BatchNorm2d(32)
        self.conv = nn.Conv2d(2, 32, 9, padding=3)  # too large to be compared whole
        self.second = nn.Conv2d(32, 4, 3, groups=2, bias=False)
        self.second_norm = nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, 3)
        randomise(self, seed).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(self.pre(x))))
        x = F.max_pool2d(self.second(x), 2, 1)
        return self.head(self.second_norm(x).mean((2, 3)))


def statistics(model: nn.Module) -> list[torch.Tensor]:
    """The buffers that a fold reads."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def everything(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *statistics(model)]


def like(model: nn.Module, seed: int) -> Net:
    """Another model, of the same dtype."""
    return Net(seed).to(next(model.parameters()).dtype)


def in_place(model: Net, rng: random.Random) -> None:
    with torch.no_grad():
        rng.choice(everything(model)).mul_(rng.uniform(0.5, 1.5)).add_(0.1)


def one_element(model: Net, rng: random.Random) -> None:
    """Of a weight that is not compared whole."""
    with torch.no_grad():
        model.conv.weight.view(-1)[rng.randrange(model.conv.weight.numel())] += 1.0


def flip_signs(model: Net, rng: random.Random) -> None:
    with torch.no_grad():
        rng.choice([model.norm.weight, model.conv.weight]).neg_()


def data_op(model: Net, rng: random.Random) -> None:
    rng.choice(everything(model)).data.mul_(rng.uniform(0.5, 1.5))


def data_assignment(model: Net, rng: random.Random) -> None:
    tensor = rng.choice(everything(model))
    tensor.data = tensor.detach() * rng.uniform(0.5, 1.5)


def through_numpy(model: Net, rng: random.Random) -> None:
    values = rng.choice(statistics(model)).numpy()
    np.multiply(values, rng.uniform(0.5, 1.5), out=values)


def refreshed(model: Net, rng: random.Random) -> None:
    """What nothing shows, told."""
    model.conv.weight.detach().numpy()[0, 1, 2, 0] += 1.0
    bnfx.refresh()


def optimizer_step(model: Net, rng: random.Random) -> None:
    form = rng.choice([{}, {"foreach": True}, {"fused": True}])
    kind = rng.choice([torch.optim.SGD, torch.optim.AdamW])
    wanted = [p.requires_grad for p in model.parameters()]
    optimizer = kind(model.requires_grad_().parameters(), lr=0.05, **form)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    if kind is torch.optim.SGD:  # it writes one element of this one
        model.conv.weight.grad.zero_()[3, 1, 4, 5] = 10.0
    optimizer.step()
    optimizer.zero_grad()
    for parameter, want in zip(model.parameters(), wanted, strict=True):
        parameter.requires_grad_(want)


def load(model: Net, rng: random.Random) -> None:
    other = like(model, rng.randrange(1000))
    model.load_state_dict(other.state_dict(), assign=rng.random() < 0.5)


def moving_average(model: Net, rng: random.Random) -> None:
    other = like(model, rng.randrange(1000))
    with torch.no_grad():
        torch._foreach_lerp_(everything(model), everything(other), 0.3)


def train_eagerly(model: Net, rng: random.Random) -> None:
    training = model.training
    model.train()(torch.randn(4, 2, 7, 7, dtype=model.head.weight.dtype))
    model.train(training)


def train_compiled(model: Net, rng: random.Random) -> None:
    training = model.training
    torch.compile(model.train(), backend="eager")(
        torch.randn(4, 2, 7, 7, dtype=model.head.weight.dtype)
    )
    model.train(training)


def flip_training(model: Net, rng: random.Random) -> None:
    model.train(not model.training)


def freeze_some(model: Net, rng: random.Random) -> None:
    """BatchNorms in evaluation, everything else in training."""
    model.train()
    for norm in (model.pre, model.norm, model.second_norm):
        norm.eval()


def new_parameter(model: Net, rng: random.Random) -> None:
    layer = rng.choice([model.conv, model.second, model.norm, model.head])
    layer.weight = nn.Parameter(torch.randn_like(layer.weight), layer.weight.requires_grad)


def new_module(model: Net, rng: random.Random) -> None:
    name = rng.choice(["norm", "conv", "second_norm"])
    module = getattr(like(model, rng.randrange(1000)), name).train(model.norm.training)
    for parameter in module.parameters():
        parameter.requires_grad_(model.head.weight.requires_grad)
    setattr(model, name, module)


def other_dtype(model: Net, rng: random.Random) -> None:
    model.float() if model.head.weight.dtype == torch.float64 else model.double()


def by_way_of_meta(model: Net, rng: random.Random) -> None:
    state = like(model, rng.randrange(1000)).state_dict()
    model.to("meta").to_empty(device="cpu").load_state_dict(state)


def flip_gradients(model: Net, rng: random.Random) -> None:
    model.requires_grad_(not model.head.weight.requires_grad)


def unfit(model: Net, rng: random.Random) -> None:
    """A variance that must not be folded; later steps may mend it."""
    with torch.no_grad():
        model.norm.running_var[1] = -1.0


def mend(model: Net, rng: random.Random) -> None:
    with torch.no_grad():
        model.norm.running_var.abs_()


class Broadcast:
    """Writes into buffers as DDP does: by a collective, which moves no version counter.

    Two ranks of gloo in one process; the other one sends.
    """

    def __init__(self) -> None:
        store = dist.HashStore()
        ranks: list[dist.ProcessGroup | None] = [None, None]

        def join(rank: int) -> None:
            ranks[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60))

        other = threading.Thread(target=join, args=(0,))
        other.start()
        join(1)
        other.join()
        self.sender, self.receiver = ranks

    def __call__(self, model: Net, rng: random.Random) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        for buffer in statistics(model):
            sent = torch.rand_like(buffer) + 0.2
            works = [
                group.broadcast([tensor], options)
                for group, tensor in ((self.sender, sent), (self.receiver, buffer))
            ]
            for work in works:
                work.wait()
            assert torch.equal(buffer, sent)


Step = Callable[[Net, random.Random], None]

# Those after which Dynamo has nothing to compile.
CHEAP: tuple[Step, ...] = (
    *(
        in_place,
        one_element,
        flip_signs,
        data_op,
        data_assignment,
        through_numpy,
        refreshed,
        optimizer_step,
    ),
    *(load, moving_average, train_eagerly, train_compiled, new_parameter, new_module),
    *(by_way_of_meta,),
)
DEAR: tuple[Step, ...] = (
    *(flip_training, freeze_some, other_dtype, flip_gradients, unfit, mend, mend),
)
