"""Cases of the backend with Inductor, each of which compiles one small net; see test_ranks.py.

The groups of cases that other implementations are tested with run here in small shapes; ranks have
the same shapes where they may, so that they share what is compiled.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.async_compile import AsyncCompile
from torch.utils.checkpoint import checkpoint

import bnfx
from sync.cases_backend import compiled
from sync.cases_replay import TorchNet, random, same
from sync.counting import recording
from sync.reference import loss_of
from sync.training import assert_alike, images, make, sizes, train, train_alone

# With two ranks, all cases run.
WORLDS: dict[int, tuple[str, ...]] = {3: ("case_1_torch_training",), 4: ()}


class Serial(nn.Sequential):
    """Convolutions, each with its BatchNorm."""

    def __init__(self, depth: int = 3) -> None:
        layers: list[nn.Module] = []
        for place in range(depth):
            layers += [nn.Conv2d(6 if place else 3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        super().__init__(*layers)


def case_whole_graphs_and_caches() -> None:
    """Uneven, float64; AOTAutograd's cache keeps what was compiled: a second start is quick."""
    batches = images(sizes())
    for turn in range(2):
        counters.clear()
        model = make()
        expected = train_alone(model, batches)
        train(compiled(model, "inductor"), model, batches[dist.get_rank()])
        assert_alike(model, expected)
        found = counters["aot_autograd"]
        assert found["autograd_cache_bypass"] == 0
        assert turn == 0 or found["autograd_cache_hit"] == 1, found


def case_weight_gradients_run_beside_reductions() -> None:
    """float32. Between the start of a reduction and the wait: a weight gradient; how it is written
    without Inductor is the same.
    """
    reduction, both = (
        "all_reduce",
        ("convolution_backward[1, 0, 0]", "convolution_backward[0, 1, 1]"),
    )
    batches = images([2] * dist.get_world_size(), dtype=torch.float32)
    for inner in ("aot_eager", "inductor"):
        model = make(Serial, torch.float32)
        expected = train_alone(copy.deepcopy(model).double(), [x.double() for x in batches], 1)
        loss = loss_of(compiled(model, inner)(batches[dist.get_rank()]), dist.get_rank())
        with recording("convolution_backward", "all_reduce", "wait") as order:
            loss.backward()
        assert order == [
            *(reduction, "wait_tensor"),
            *(both[0], reduction, both[1], "wait_tensor") * 2,
            both[1],
        ], order
        for name, buffer in model.named_buffers():
            same(buffer, expected.get_buffer(name), 2e-5, 2e-5)


def case_equal_layers_share_kernels() -> None:
    """However deep the net is: a compiler's start takes a second for each kernel."""
    batch = images([2] * dist.get_world_size(), dtype=torch.float32)[dist.get_rank()]
    written: list[int] = []
    for depth in (3, 4):
        sources, original = set[str](), AsyncCompile.cpp_pybinding

        def noting(
            self: AsyncCompile,
            types: list[str],
            source: str,
            sources: set[str] = sources,
            original: Callable[..., object] = original,
        ) -> object:
            sources.add(source)
            return original(self, types, source)

        with mock.patch.object(AsyncCompile, "cpp_pybinding", noting):
            model = make(functools.partial(Serial, depth), torch.float32)
            loss_of(compiled(model, "inductor")(batch), dist.get_rank()).backward()
        written.append(len(sources))
    assert written[0] == written[1] > 0, written


def case_our_module_in_bfloat16() -> None:
    batches = images([3] * dist.get_world_size(), dtype=torch.bfloat16)
    model = make(lambda: Serial(1), torch.bfloat16)
    expected = train_alone(copy.deepcopy(model).double(), [x.double() for x in batches], 1)
    bnfx.convert_sync_batchnorm(model)
    train(compiled(model, "inductor"), model, batches[dist.get_rank()], 1)
    assert_alike(model, expected, 3e-2)


def case_1_torch_training() -> None:
    """torch's net, rank + 2 samples, shuffled."""
    rank, world = dist.get_rank(), dist.get_world_size()
    samples = [r + 2 for r in range(world)]
    torch.manual_seed(0)
    model = TorchNet().double()
    alone, run = copy.deepcopy(model), compiled(model, "inductor")
    for turn in range(3):
        order = torch.randperm(sum(samples), generator=torch.Generator().manual_seed(turn))
        x = random((sum(samples), 2), turn).double()[order]
        alone = train_alone(alone, x.split(samples), 1)
        train(run, model, x.split(samples)[rank], 1)
        assert_alike(model, alone)


class Between(nn.Module):
    """A BatchNorm between a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.conv(x)))


def case_4_empty_rank() -> None:
    batches = images([0] + [3] * (dist.get_world_size() - 1))
    model = make(Between)
    expected = train_alone(model, batches)
    train(compiled(model, "inductor"), model, batches[dist.get_rank()])
    assert_alike(model, expected)


class Several(nn.Module):
    """BatchNorms side by side, each with an input of its own; one collective serves all."""

    def __init__(self, *norms: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, *xs: torch.Tensor) -> list[torch.Tensor]:
        return [norm(x) for norm, x in zip(self.norms, xs, strict=True)]


def check_several(model: Several, batches: list[list[torch.Tensor]], tolerance: float) -> None:
    """One training step against one process.

    Args:
        batches: of each rank, the inputs.
    """
    rank = dist.get_rank()
    parts = [[x.detach().double().requires_grad_() for x in xs] for xs in batches]
    alone = copy.deepcopy(model).double()
    outputs = [
        output.split([len(xs[i]) for xs in batches])
        for i, output in enumerate(alone(*(torch.cat(xs) for xs in zip(*parts, strict=True))))
    ]
    sum(loss_of(each[r], r) for each in outputs for r in range(len(batches))).backward()
    xs = [x.detach().clone().requires_grad_() for x in batches[rank]]
    found = compiled(model, "inductor")(*xs)
    with recording("all_gather", "all_reduce") as order:
        sum(loss_of(each, rank) for each in found).backward()
    for i, x in enumerate(xs):
        same(found[i], outputs[i][rank], tolerance, tolerance)
        same(x.grad, parts[rank][i].grad, tolerance, tolerance * 10)
    for name, buffer in model.named_buffers():
        same(buffer, alone.get_buffer(name), tolerance, tolerance)
    assert order == ["all_reduce"]


def case_6_apex_and_10_fairscale() -> None:
    """apex's ranks; 1, 2 and 3 dimensions with x * rank, so rank 0 has zeros."""
    model = Several(
        nn.BatchNorm2d(10, momentum=1.0), nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3)
    ).double()
    shapes = ((4, 3, 7), (4, 3, 5, 7), (4, 3, 2, 5, 7))
    batches = [
        [random((4, 10, 8, 8), r, torch.float64)]
        + [random(shape, r, torch.float64) * r for shape in shapes]
        for r in range(dist.get_world_size())
    ]
    check_several(model, batches, 1e-8)


def case_12_numerics() -> None:
    """float32: mean 1e4 and deviation 0.1; and one rank fifty times as wide as the others."""
    world = dist.get_world_size()
    model = Several(nn.BatchNorm2d(3, momentum=1.0), nn.BatchNorm2d(4, momentum=1.0))
    batches = [
        [
            1e4 + 0.1 * random((4, 3, 16, 16), r),
            random((16 if r == 0 else 8, 4, 5, 5), r) * (50 if r == 0 else 1),
        ]
        for r in range(world)
    ]
    compiled(model, "inductor")(*batches[dist.get_rank()])
    for norm, xs in zip(model.norms, zip(*batches, strict=True), strict=True):
        whole = torch.cat(xs).double().transpose(0, 1).flatten(1)
        same(norm.running_var, whole.var(1), 1e-3, 0)
        same(norm.running_mean, whole.mean(1), 1e-7, 1e-5)


def case_10_checkpointed_twice() -> None:
    """Statistics are updated once, however often a block is computed again."""
    world, rank = dist.get_world_size(), dist.get_rank()
    batches = [random((4, 3, 7), r, torch.float64) * r for r in range(world)]
    model = nn.BatchNorm1d(3).double()
    expected = train_alone(model, batches, 1)

    def once(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=False)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(once, x, use_reentrant=False)

    train(compiled(twice, "inductor"), model, batches[rank], 1)
    for name, buffer in model.named_buffers():
        same(buffer, expected.get_buffer(name), 1e-9, 1e-9)
