"""The cases that other implementations are tested with, at their tolerances; see test_ranks.py.

Each is named by where it comes from. The reference is a local BatchNorm over the concatenated batch
(in float64), and each runs through our eager module and through a BatchNorm that the backend swaps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnfx
from sync.reference import loss_of

BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def both_ways(
    model: nn.Module, group: Any = None
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """A copy of ``model`` and how to run it: converted and eager, then compiled by the backend.

    Compiling takes a second each time: on more than 2 ranks, only what has to do with groups is.
    """
    eager = bnfx.convert_sync_batchnorm(copy.deepcopy(model), group)
    yield eager, eager
    if group is None and dist.get_world_size() > 2:
        return
    torch._dynamo.reset()
    other = copy.deepcopy(model)
    options = {"inner": "eager", "process_group": group}  # cases_inductor has the inner compilers
    yield other, torch.compile(other, backend="bnfx", fullgraph=True, options=options)


def check(
    norm: nn.Module,
    batches: Sequence[torch.Tensor],
    rtol: float,
    atol: float,
    grad_atol: float | None = None,
    group: Any = None,
    loss: Callable[[torch.Tensor, int], torch.Tensor] = loss_of,
) -> None:
    """One training step of ``norm``: output, gradients and statistics, and their dtypes.

    Args:
        batches: of the ranks that share; an empty one for every rank that does not.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = [x.detach().double().requires_grad_() for x in batches]
    alone = copy.deepcopy(norm).double()
    outputs = alone(torch.cat(parts)).split([len(x) for x in batches])
    losses = [loss(output, r) for r, output in enumerate(outputs)]
    sum(losses).backward()  # type: ignore[union-attr]
    assert parts[rank].grad is not None
    for ours, run in both_ways(norm, group):
        x = batches[rank].detach().clone(memory_format=torch.preserve_format).requires_grad_()
        output = run(x)
        loss(output, rank).backward()
        assert x.grad is not None
        assert output.dtype == x.grad.dtype == x.dtype
        same(output, outputs[rank], rtol, atol)
        same(x.grad, parts[rank].grad, rtol, grad_atol or atol)
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.dtype == parameter.dtype
            whole = parameter.grad.double()
            dist.all_reduce(whole, group=group)
            right = alone.get_parameter(name).grad
            terms = sum(x.numel() for x in batches) / len(right)
            scale = max(terms**0.5, float(right.abs().max()))  # of a sum of so many signed terms
            same(whole / scale, right / scale, rtol * world, grad_atol or atol)
        for name, buffer in ours.named_buffers():
            same(buffer, alone.get_buffer(name), rtol, atol)


def same(actual: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> None:
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)


def random(shape: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


class TorchNet(nn.Module):
    """Of torch's ``distributed_test.py``."""

    def __init__(self, affine: bool = True, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.first = nn.Linear(2, 40, bias=False)
        self.norm = nn.BatchNorm1d(40 if flat else 4, affine=affine)
        self.last = nn.Linear(40, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.norm(x) if self.flat else self.norm(x.view(-1, 4, 10)).reshape(-1, 40)
        return F.softmax(self.last(x), dim=1)


def case_1_torch_training() -> None:
    """MSE, ``param += grad``, shuffled; even, rank + 2, one sample a rank; saved and reloaded."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for sizes, affine, flat in (
        ([2] * world, True, False),
        ([r + 2 for r in range(world)], True, False),
        ([r + 2 for r in range(world)], False, False),
        ([2] * world, True, True),
        ([1] * world, True, False),
    ):
        torch.manual_seed(0)
        start = TorchNet(affine, flat).double()
        for ours, run in both_ways(start):
            alone, total = copy.deepcopy(start), sum(sizes)
            for turn in range(5 if affine else 2):
                order = torch.randperm(total, generator=torch.Generator().manual_seed(turn))
                x, target = random((total, 2), turn).double()[order], random((total, 4), 9).double()
                F.mse_loss(alone(x), target).backward()
                mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
                loss = F.mse_loss(run(x[mine]), target[mine])
                (loss * world * sizes[rank] / total).backward()
                with torch.no_grad():
                    for each in ours.parameters():
                        dist.all_reduce(each.grad)
                        each += each.grad / world
                        each.grad = None
                    for each in alone.parameters():
                        each += each.grad
                        each.grad = None
            reloaded = TorchNet(affine, flat).double()
            reloaded.load_state_dict(ours.state_dict())
            for name, value in alone.state_dict().items():
                same(reloaded.state_dict()[name], value, 1.3e-6, 1e-5)


def case_1_torch_layouts() -> None:
    for shape, layout in (
        ((2, 4, 5, 6), torch.channels_last),
        ((2, 4, 3, 5, 6), torch.channels_last_3d),
    ):
        batches = [
            random(shape, r).contiguous(memory_format=layout) for r in range(dist.get_world_size())
        ]
        norm = BATCH_NORMS[len(shape)](4)
        check(norm, batches, 1.3e-6, 1e-5)
        out = bnfx.convert_sync_batchnorm(norm)(batches[dist.get_rank()])
        assert out.is_contiguous(memory_format=layout)


def case_2_torch_running_statistics() -> None:
    """Ranks with 2, 20, 200 ... values far apart; 100 iterations at momentum 0.99."""
    rank, world = dist.get_rank(), dist.get_world_size()
    rows = [
        torch.stack(
            [
                torch.full((1, 10 ** (r + 1)), 0.1 ** (r - 1)),
                torch.full((1, 10 ** (r + 1)), 0.3 ** (r - 1)),
            ]
        )
        for r in range(world)
    ]
    whole = torch.cat([row.flatten() for row in rows]).double()
    for ours, run in both_ways(nn.BatchNorm1d(1, momentum=0.99)):
        for _ in range(100):
            run(rows[rank])
        same(ours.running_mean, whole.mean().view(1), 1.3e-6, 1e-5)
        same(ours.running_var, whole.var().view(1), 1.3e-6, 1e-5)


def case_3_torch_half() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)).to(dtype)
        for ours, run in both_ways(model):
            x = random((2, 3, 8, 8), dist.get_rank(), dtype).requires_grad_()
            output = run(x)
            output.float().square().sum().backward()
            grads = [x.grad, *(parameter.grad for parameter in ours.parameters())]
            assert {output.dtype, *(grad.dtype for grad in grads)} == {dtype}
            assert all(torch.isfinite(grad).all() and grad.abs().max() > 0 for grad in grads)


def case_4_empty() -> None:
    """Rank 0 has nothing; by itself and between a convolution and a linear layer."""
    world = dist.get_world_size()
    batches = [random((0 if r == 0 else 1, 2, 11, 13), r) for r in range(world)]
    check(nn.BatchNorm2d(2), batches, 1.3e-6, 1e-5)

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = (
                nn.Conv2d(2, 3, 3),
                nn.BatchNorm2d(3),
                nn.Linear(28, 2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.conv(x)))

    torch.manual_seed(0)
    batches = [random((0 if r == 0 else 3, 2, 30, 30), r, torch.float64) for r in range(world)]
    check(Between().double(), batches, 1e-9, 1e-9)


def case_4_nothing() -> None:
    """All ranks empty: statistics unchanged, gradients zero and there."""
    for grad in (True, False):
        for ours, run in both_ways(nn.BatchNorm2d(2)):
            before = copy.deepcopy(ours.state_dict())
            x = torch.empty(0, 2, 11, 13, requires_grad=grad)
            run(x).sum().backward()
            assert grad == (x.grad is not None and x.grad.shape == x.shape)
            assert torch.equal(ours.weight.grad, torch.zeros(2))
            assert torch.equal(ours.bias.grad, torch.zeros(2))
            for name in ("running_mean", "running_var"):
                assert torch.equal(getattr(ours, name), before[name])


def case_5_rank_0_alone_evaluates() -> None:
    for ours, run in both_ways(nn.BatchNorm1d(2, track_running_stats=False).eval()):
        if dist.get_rank() == 0:
            x = random((3, 2))
            same(run(x), F.batch_norm(x, None, None, ours.weight, ours.bias, True), 1e-6, 1e-6)
    dist.barrier()


def case_5_join() -> None:
    """The last rank has more batches: all end together, with an error that says so."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = bnfx.convert_sync_batchnorm(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)))
    ddp = DistributedDataParallel(model)
    message = ""
    try:
        with Join([ddp], throw_on_early_termination=True):
            for turn in range(3 if rank < world - 1 else 5):
                ddp(random((3, 2), turn)).square().sum().backward()
    except RuntimeError as error:
        message = str(error)
    assert "exhausted" in message


def case_5_group_reaches_nested_modules() -> None:
    group = dist.new_group(range(dist.get_world_size()))
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2)), nn.ModuleDict({"a": nn.BatchNorm2d(2)}))
    bnfx.convert_sync_batchnorm(model, group)
    found = [m for m in model.modules() if isinstance(m, bnfx.SyncBatchNorm)]
    assert [norm.process_group is group for norm in found] == [True, True]


def case_6_apex() -> None:
    world = dist.get_world_size()
    for dtype, tolerance in (
        (torch.float32, 1e-5),
        (torch.float16, 1e-3),
        (torch.float64, 1e-8),
    ):
        own = torch.float64 if dtype is torch.float64 else torch.float32
        for shape, layout in (
            ((32, 10, 40, 40), torch.contiguous_format),
            ((32, 10, 40, 40), torch.channels_last),
            ((8, 4), torch.contiguous_format),
        ):
            batches = [
                random((shape[0] // world, *shape[1:]), r, dtype).contiguous(memory_format=layout)
                for r in range(world)
            ]
            if layout is torch.channels_last and dtype is not torch.float32:
                continue
            norm = BATCH_NORMS[len(shape)](shape[1], momentum=1.0).to(own)
            # The loss sees an output rounded to 11 bits, and its gradient is rounded so again.
            half = dtype is torch.float16
            check(norm, batches, tolerance, tolerance, 1e-2 if half else tolerance)


def case_6_apex_groups() -> None:
    """Pairs of ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    pairs = [dist.new_group([r for r in (i, i + 1) if r < world]) for i in range(0, world, 2)]
    batches = [random((8, 10, 6, 6), r, torch.float64) for r in range(world)]
    mine = [x if r // 2 == rank // 2 else x[:0] for r, x in enumerate(batches)]
    check(nn.BatchNorm2d(10).double(), mine, 1e-8, 1e-8, group=pairs[rank // 2])


def case_6_apex_uneven() -> None:
    """16 samples times 50 against 8: ranks weighed equally give 0.75 of the true variance."""
    world = dist.get_world_size()
    batches = [
        random((16 if r == 0 else 8, 4, 5, 5), r) * (50 if r == 0 else 1) for r in range(world)
    ]

    def loss(output: torch.Tensor, rank: int) -> torch.Tensor:
        return loss_of(output, rank) * 2 / sum(len(x) for x in batches)

    check(nn.BatchNorm2d(4, momentum=1.0), batches, 1e-5, 1e-5, loss=loss)
    each = [x.double().var((0, 2, 3), correction=0) for x in batches]
    whole = torch.cat(batches).double().var((0, 2, 3), correction=0)
    assert (sum(each) / world / whole < 0.8).all(), "the case must tell weights apart"


GROUP_BATCH_NORM = [
    *((1024, 6, 9), (128, 24, 36), (128, 48, 72), (1536, 6, 9), (2048, 6, 9), (256, 1, 1)),
    *((256, 24, 36), (256, 48, 72), (256, 6, 9), (256, 12, 18), (32, 48, 72), (48, 24, 36)),
    *((64, 48, 72), (728, 6, 9), (728, 12, 18)),
]


def case_7_cudnn_group_batch_norm() -> None:
    """apex's 15 shapes, one image a rank, in half and NHWC; height and width divided by 4, or by 8
    on more than 2 ranks.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    larger = 2 if world == 2 else 1
    for channels, *eighths in GROUP_BATCH_NORM:
        height, width = (larger * size for size in eighths)
        batches = [
            random((1, channels, height, width), r, torch.float16).contiguous(
                memory_format=torch.channels_last
            )
            for r in range(world)
        ]
        grads = [random(x.shape, 50 + r, torch.float16) for r, x in enumerate(batches)]
        parts = [x.float().requires_grad_() for x in batches]
        alone = nn.BatchNorm2d(channels)
        outputs = alone(torch.cat(parts)).split(1)
        torch.autograd.backward(outputs, [grad.float() for grad in grads])
        norm = bnfx.convert_sync_batchnorm(nn.BatchNorm2d(channels))
        x = batches[rank].requires_grad_()
        output = norm(x)
        output.backward(grads[rank])
        same(output, outputs[rank], 3.5e-3, 3e-2)
        same(x.grad, parts[rank].grad, 3.5e-3, 3e-2)
        same(norm.running_var, alone.running_var, 3.5e-3, 1e-4)
        assert output.is_contiguous(memory_format=torch.channels_last)


def case_8_mmcv() -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    for size in (1, 2, 4):
        if size > world:
            continue
        groups = [dist.new_group(range(i, min(i + size, world))) for i in range(0, world, size)]
        for dtype, empty in ((torch.float32, False), (torch.float16, False), (torch.float32, True)):
            batches = [
                random((0 if empty and r == 1 else 4, 3, 2, 3), r, dtype) for r in range(world)
            ]
            if size == 1 and empty:
                continue  # a local BatchNorm of nothing
            norm = nn.BatchNorm2d(3)
            with torch.no_grad():
                norm.weight.copy_(torch.tensor([0.2, 0.5, 0.7]))
                norm.bias.copy_(torch.tensor([0.2, 0.5, 0.7]))
            mine = [x if r // size == rank // size else x[:0] for r, x in enumerate(batches)]
            low = 4e-3 if dtype is torch.float16 else 0.0
            check(norm, mine, 1e-3, 1e-3 + low, 1e-2, group=groups[rank // size])


def case_9_horovod() -> None:
    """Integer ramps, one sample a rank."""
    world = dist.get_world_size()
    for shape in ((4, 2), (4, 1)):
        ramp = torch.arange(world * 4 * shape[1], dtype=torch.float32).view(world, *shape)
        batches = [ramp[r : r + 1] for r in range(world)]
        if shape[1] == 1:  # a local BatchNorm refuses a single value a channel, so ours alone
            norm = bnfx.convert_sync_batchnorm(nn.BatchNorm1d(4))
            alone = nn.BatchNorm1d(4).double()
            same(
                norm(batches[dist.get_rank()]),
                alone(ramp.double())[dist.get_rank()][None],
                1e-6,
                1e-6,
            )
            same(norm.running_var, alone.running_var, 1e-6, 0)
        else:
            check(nn.BatchNorm1d(4), batches, 1e-6, 1e-5)


def case_10_fairscale() -> None:
    """x times rank, so rank 0 has zeros; checkpointed once and twice, statistics updated once."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for shape in ((4, 3, 7), (4, 3, 5, 7), (4, 3, 2, 5, 7)):
        batches = [random(shape, r, torch.float64) * r for r in range(world)]
        check(BATCH_NORMS[len(shape)](3).double(), batches, 1e-9, 1e-9)
    for depth in (1, 2):
        norm = bnfx.convert_sync_batchnorm(nn.BatchNorm1d(3).double())
        run: Callable[[torch.Tensor], torch.Tensor] = norm
        for _ in range(depth):
            run = _checkpointed(run)
        batches = [random((4, 3, 7), r, torch.float64) * r for r in range(world)]
        parts = [x.clone().requires_grad_() for x in batches]
        alone = nn.BatchNorm1d(3).double()
        outputs = alone(torch.cat(parts)).split(4)
        sum(loss_of(output, r) for r, output in enumerate(outputs)).backward()
        x = batches[rank].clone().requires_grad_()
        loss_of(run(x), rank).backward()
        same(x.grad, parts[rank].grad, 1e-9, 1e-9)
        for name, buffer in alone.named_buffers():
            same(norm.get_buffer(name), buffer, 1e-9, 1e-12)


def _checkpointed(run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x: checkpoint(run, x, use_reentrant=False)


def case_11_encoding() -> None:
    """float64, loss sum(y^2), 10 rounds of training and evaluation."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for ours, run in both_ways(nn.BatchNorm2d(10).double()):
        alone = nn.BatchNorm2d(10).double()
        for turn in range(10):
            batches = [
                random((16 // world, 10, 16, 16), 10 * turn + r, torch.float64)
                for r in range(world)
            ]
            parts = [x.clone().requires_grad_() for x in batches]
            x = batches[rank].clone().requires_grad_()
            for module in (ours, alone):
                module.train()
            output, outputs = run(x), alone(torch.cat(parts)).split(16 // world)
            (output**2).sum().backward()
            sum((each**2).sum() for each in outputs).backward()
            same(output, outputs[rank], 1e-3, 1e-9)
            same(x.grad, parts[rank].grad, 1e-3, 1e-9)
            for module in (ours, alone):
                module.eval()
            same(run(x), alone(x), 1e-3, 1e-9)


def case_12_equal_weights_are_wrong() -> None:
    """Unequal ranks weighed equally give another variance, by a quarter."""
    world = dist.get_world_size()
    sizes = [16 if r == 0 else 8 for r in range(world)]
    batches = [random((n, 4, 5, 5), r) * (50 if r == 0 else 1) for r, n in enumerate(sizes)]
    for ours, run in both_ways(nn.BatchNorm2d(4, momentum=1.0)):
        run(batches[dist.get_rank()])
        same(ours.running_var, torch.cat(batches).double().var((0, 2, 3)), 1e-5, 0)
