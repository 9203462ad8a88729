"""Cases of ``bnfx.sync_batch_norm`` that every world runs; see test_ranks.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from bnfx import SyncBatchNorm, sync_batch_norm
from bnfx.sync.collectives import AddUp
from sync.counting import counting, gathers
from sync.reference import assert_same, loss_of, step, truth

WEIGHT, BIAS = torch.tensor([0.5, -1.2, 0.7]), torch.tensor([0.1, 0.2, -0.3])
MEAN, VAR = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5])
SHAPES = [(3,), (3, 5), (3, 4, 5), (3, 2, 3, 4), (3, 2, 1, 2, 2)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 6e-3}


def batches(shape: Sequence[int], dtype: torch.dtype, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Each rank's batch, known to all ranks; means and spreads differ between ranks."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, *shape, generator=generator, dtype=torch.float64) * (1 + r) + r).to(dtype)
        for r, n in enumerate(sizes)
    ]


def uneven() -> list[list[int]]:
    """Batch sizes: even, one sample a rank, all different, the first rank empty."""
    world = dist.get_world_size()
    ramp = [2 * rank + 1 for rank in range(world)]
    return [[4] * world, [1] * world, ramp, [0] + [3] * (world - 1)]


def case_values() -> None:
    rank = dist.get_rank()
    for shape, sizes, (dtype, tolerance) in itertools.product(SHAPES, uneven(), TOLERANCE.items()):
        xs = batches(shape, dtype, sizes)
        own = torch.float64 if dtype is torch.float64 else torch.float32
        args = [t.to(own) for t in (WEIGHT, BIAS, MEAN, VAR)]
        actual = step(sync_batch_norm, xs[rank], *args)
        assert_same(actual, truth(xs, *args), tolerance)
        assert actual.output.dtype == actual.grad_input.dtype == dtype


def case_variants() -> None:
    """No affine parameters, no statistics, only one of both, another momentum and eps."""
    rank, world = dist.get_rank(), dist.get_world_size()
    xs = batches((3, 4), torch.float64, [2 + rank for rank in range(world)])
    weight, bias, mean, var = (t.double() for t in (WEIGHT, BIAS, MEAN, VAR))
    for args in (
        (None, None, mean, var),
        (weight, bias, None, None),
        (weight, None, mean, var),
        (None, bias, None, None),
    ):
        assert_same(step(sync_batch_norm, xs[rank], *args), truth(xs, *args), 1e-12)

    for momentum in (1.0, 0.3, torch.tensor(0.3)):

        def function(*args: torch.Tensor, momentum: object = momentum) -> torch.Tensor:
            return sync_batch_norm(*args, momentum, 0.1)  # type: ignore[arg-type]

        expected = truth(xs, weight, bias, mean, var, float(momentum), 0.1)
        assert_same(step(function, xs[rank], weight, bias, mean, var), expected, 1e-7)


def case_cumulative_average() -> None:
    """momentum=None: the mean of all batches' statistics; eager, and compiled in one graph."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = [
        [x + step for x in batches((3, 4), torch.float64, [2 + r for r in range(world)])]
        for step in (0, 5, 7)
    ]
    expected = torch.nn.BatchNorm1d(3, momentum=None).double()
    for xs in steps:
        expected(torch.cat(xs))
    for backend in (None, "aot_eager"):
        norm = SyncBatchNorm(3, momentum=None, dtype=torch.float64)
        run = norm if backend is None else torch.compile(norm, backend=backend, fullgraph=True)
        for xs in steps:
            run(xs[rank])
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(norm.get_buffer(name), buffer)


def case_nothing_at_all() -> None:
    """All ranks empty: statistics are untouched, gradients are zeros."""
    x = torch.empty(0, 3, 4)
    actual = step(sync_batch_norm, x, WEIGHT, BIAS, MEAN, VAR)
    assert torch.equal(actual.running_mean, MEAN)
    assert torch.equal(actual.running_var, VAR)
    assert torch.equal(actual.grad_weight, torch.zeros(3))
    assert torch.equal(actual.grad_bias, torch.zeros(3))
    assert actual.output.shape == actual.grad_input.shape == x.shape


def case_one_value() -> None:
    """One value a channel over all ranks: no unbiased variance, so running_var is untouched."""
    rank = dist.get_rank()
    x = torch.tensor([[4.0, 5.0, 6.0]])[: 1 if rank == 0 else 0]
    actual = step(sync_batch_norm, x, WEIGHT, BIAS, MEAN, VAR)
    torch.testing.assert_close(
        actual.running_mean, 0.9 * MEAN + 0.1 * torch.tensor([4.0, 5.0, 6.0])
    )
    assert torch.equal(actual.running_var, VAR)
    assert torch.equal(actual.output, BIAS.expand(len(x), 3))
    assert torch.equal(actual.grad_input, torch.zeros_like(x))
    assert torch.equal(actual.grad_weight, torch.zeros(3))


def case_dtypes_of_ranks_may_differ() -> None:
    """An empty batch that came as float32 joins a group of float64, and of bfloat16."""
    rank = dist.get_rank()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        xs = batches((3, 4), dtype, [0] + [3] * (dist.get_world_size() - 1))
        own = torch.float64 if dtype is torch.float64 else torch.float32
        args = [t.to(own) for t in (WEIGHT, BIAS, MEAN, VAR)]
        x = xs[rank].float() if rank == 0 else xs[rank]
        assert_same(step(sync_batch_norm, x, *args), truth(xs, *args), TOLERANCE[dtype])


def case_half_models() -> None:
    """Parameters in half precision: output and all gradients keep the dtype."""
    rank = dist.get_rank()
    for dtype in (torch.bfloat16, torch.float16):
        xs = batches((3, 6), dtype, [5] * dist.get_world_size())
        args = [t.to(dtype) for t in (WEIGHT, BIAS, MEAN, VAR)]
        actual = step(sync_batch_norm, xs[rank], *args)
        assert {value.dtype for value in vars(actual).values()} == {dtype}
        assert_same(actual, truth(xs, *args), 3e-2 if dtype is torch.bfloat16 else 4e-3)


def case_many_values_in_half() -> None:
    """More than 65504 values a channel: counts do not overflow in half precision."""
    world, rank = dist.get_world_size(), dist.get_rank()
    xs = batches((3, 70_000), torch.float16, [1] * world)
    mean, var = MEAN.half(), VAR.half()
    expected = truth(xs, None, None, mean, var)
    output = sync_batch_norm(xs[rank], mean, var)
    torch.testing.assert_close(output.double(), expected.output, rtol=4e-3, atol=4e-3)
    torch.testing.assert_close(var.double(), expected.running_var, rtol=4e-3, atol=0)


def case_layouts() -> None:
    rank = dist.get_rank()
    for shape, layout in (
        ((3, 4, 5), torch.channels_last),
        ((3, 2, 3, 4), torch.channels_last_3d),
    ):
        xs = batches(shape, torch.float32, [2] * dist.get_world_size())
        x = xs[rank].contiguous(memory_format=layout)
        actual = step(sync_batch_norm, x, WEIGHT, BIAS, MEAN, VAR)
        assert_same(actual, truth(xs, WEIGHT, BIAS, MEAN, VAR), 1e-5)
        assert actual.output.is_contiguous(memory_format=layout)
        assert actual.grad_input.is_contiguous(memory_format=layout)


def case_double_backward() -> None:
    """Gradients of gradients, against autograd through one process's formula."""
    rank, world = dist.get_rank(), dist.get_world_size()
    xs = batches((3, 2), torch.float64, [2 + r for r in range(world)])

    def penalty(grad: torch.Tensor, i: int) -> torch.Tensor:
        return loss_of(grad, i + 7)

    # One process: each rank's own copy of gamma and beta, so that shares can be told apart.
    parts = [x.clone().requires_grad_() for x in xs]
    gammas = [WEIGHT.double().requires_grad_() for _ in xs]
    betas = [BIAS.double().requires_grad_() for _ in xs]
    whole = torch.cat(parts)
    mean = whole.mean((0, 2), keepdim=True)
    invstd = (whole.var((0, 2), correction=0, keepdim=True) + 1e-5).rsqrt()
    outputs = [
        (x - mean) * invstd * gamma.view(1, -1, 1) + beta.view(1, -1, 1)
        for x, gamma, beta in zip(parts, gammas, betas, strict=True)
    ]
    total = sum(loss_of(output, i) for i, output in enumerate(outputs))
    firsts = torch.autograd.grad(total, parts + gammas, create_graph=True)
    again = sum(penalty(grad, i % world) for i, grad in enumerate(firsts))
    expected = torch.autograd.grad(again, [parts[rank], gammas[rank]])

    x, gamma, beta = xs[rank].requires_grad_(), WEIGHT.double().requires_grad_(), BIAS.double()
    output = sync_batch_norm(x, None, None, gamma, beta)
    first = torch.autograd.grad(loss_of(output, rank), [x, gamma], create_graph=True)
    torch.testing.assert_close(first[0], firsts[rank], rtol=1e-9, atol=1e-9)
    again = penalty(first[0], rank) + penalty(first[1], rank)
    for actual, right in zip(torch.autograd.grad(again, [x, gamma]), expected, strict=True):
        assert right.abs().max() > 1e-3
        torch.testing.assert_close(actual, right, rtol=1e-8, atol=1e-8)


def case_gradgradcheck() -> None:
    """All ranks evaluate one function of the whole batch, each its part, so numbers see all of it.

    Adding up makes every rank's input the mean of all (equal) copies, and its output whole.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    name = dist.group.WORLD.group_name
    sizes = [2 if r else 1 for r in range(world)]

    def whole(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x, weight, bias = (AddUp.apply(t, name) / world for t in (x, weight, bias))
        parts = x.split(sizes)
        output = sync_batch_norm(parts[rank], None, None, weight, bias, eps=0.1)
        padded = [output if r == rank else torch.zeros_like(part) for r, part in enumerate(parts)]
        return AddUp.apply(torch.cat(padded), name)

    inputs = (torch.randn(sum(sizes), 2, 2), torch.tensor([0.7, -1.1]), torch.tensor([0.2, 0.3]))
    inputs = tuple(t.double().requires_grad_() for t in inputs)
    expected = F.batch_norm(inputs[0], None, None, *inputs[1:], True, 0.1, 0.1)
    torch.testing.assert_close(whole(*inputs), expected)
    fast = world > 2  # by a random projection, where there are not cores enough for all ranks
    assert torch.autograd.gradcheck(whole, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(whole, inputs, fast_mode=fast)


def case_numerics() -> None:
    """Mean 1e4, deviation 0.1: E[x^2] - E[x]^2 gives 16 in float32, the truth is 0.01."""
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    xs = [1e4 + 0.1 * torch.randn(16, 3, 32, 32, generator=generator) for _ in range(world)]
    whole = torch.cat(xs).double().transpose(0, 1).flatten(1)
    naive = (torch.cat(xs) ** 2).mean((0, 2, 3)) - torch.cat(xs).mean((0, 2, 3)) ** 2
    assert ((naive - whole.var(1)).abs() > 0.5).any(), "the case must be a hard one"
    mean, var = torch.zeros(3), torch.ones(3)
    sync_batch_norm(xs[rank], mean, var, momentum=1.0)
    torch.testing.assert_close(var.double(), whole.var(1), rtol=1e-3, atol=0)
    torch.testing.assert_close(mean.double(), whole.mean(1), rtol=1e-7, atol=0)


def case_ranks_far_apart() -> None:
    """Ranks' means differ by far more than their spreads, and their sizes too."""
    world, rank = dist.get_world_size(), dist.get_rank()
    xs = [x + 1e3 * r for r, x in enumerate(batches((3, 5), torch.float32, [9, 2, 1, 4][:world]))]
    assert_same(
        step(sync_batch_norm, xs[rank], WEIGHT, BIAS, MEAN, VAR),
        truth(xs, WEIGHT, BIAS, MEAN, VAR),
        1e-5,
    )


def case_two_collectives() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True)
    weight = WEIGHT.clone().requires_grad_()
    with counting() as counts:
        output = sync_batch_norm(x, MEAN.clone(), VAR.clone(), weight, BIAS)
        assert gathers(counts) == (1, 0)
        output.square().sum().backward()
        assert gathers(counts) == (1, 1)
    with counting() as counts:  # an input that needs no gradient needs no reduction
        sync_batch_norm(x.detach(), None, None, weight, BIAS).square().sum().backward()
        assert gathers(counts) == (1, 0)


def case_groups() -> None:
    """Pairs of ranks that share; a rank outside its group is local, as is a group of one."""
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [
        dist.new_group([r for r in range(world) if r // 2 == i]) for i in range((world + 1) // 2)
    ]
    group = groups[rank // 2]
    xs = batches((3, 4), torch.float64, [2 + r for r in range(world)])
    args = [t.double() for t in (WEIGHT, BIAS, MEAN, VAR)]

    def function(*args: torch.Tensor) -> torch.Tensor:
        return sync_batch_norm(*args, group=group)

    mine = [x if i // 2 == rank // 2 else x[:0] for i, x in enumerate(xs)]
    assert_same(step(function, xs[rank], *args), truth(mine, *args), 1e-12)
    # Of the first pair's group, the others have no part: local, and no waiting.
    group = groups[0]
    alone = [
        x if (i // 2 == 0 if rank // 2 == 0 else i == rank) else x[:0] for i, x in enumerate(xs)
    ]
    assert_same(step(function, xs[rank], *args), truth(alone, *args), 1e-12)


def case_wrong_inputs() -> None:
    for args, error in (
        ((torch.randn(3), None, None), ValueError),
        ((torch.ones(2, 3, dtype=torch.int64), None, None), TypeError),
        ((torch.randn(2, 3), MEAN, None), ValueError),
        ((torch.randn(2, 4), MEAN, VAR), ValueError),
        ((torch.randn(2, 3), None, None, torch.ones(4)), ValueError),
    ):
        with pytest.raises(error):
            sync_batch_norm(*args)
