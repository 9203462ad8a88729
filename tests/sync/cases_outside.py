"""What Dynamo leaves outside of its graphs shares its statistics too; see test_outside.py.

The models are what users write, so many do not have a forward of their own.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnfx
from sync.reference import loss_of
from sync.training import assert_alike, images, make, sizes, train, train_alone

# What more ranks than two have to show; with two, all cases run.
WORLDS: dict[int, tuple[str, ...]] = {4: ("case_segmentation",)}
LIMIT = 2  # graphs a code object within limited(): Dynamo's own is 8, which takes longer


def limited() -> Any:
    return torch._dynamo.config.patch(recompile_limit=LIMIT)


def compiled(model: Any, inner: Any = "eager", dynamic: bool | None = None, **options: Any) -> Any:
    """As a user compiles it, but for the inner compiler: graphs may break."""
    torch._dynamo.reset()
    options = {"inner": inner, "sync": "require", **options}
    return torch.compile(model, backend="bnfx", dynamic=dynamic, options=options)


def layers(fan_in: int = 3, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(fan_in, 4, 3, padding=1), norm(4), nn.ReLU())


class Segmenter(nn.Sequential):
    """Down, up again, and a class for each pixel."""

    def __init__(self) -> None:
        down, up = nn.Sequential(nn.MaxPool2d(2), layers(4)), nn.Upsample(scale_factor=2)
        super().__init__(layers(), down, nn.Sequential(up, layers(4)), nn.Conv2d(4, 2, 1))


class Head(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def plain() -> nn.Module:
    return nn.Sequential(layers(), layers(4), Head())


class Own(nn.Module):
    """A forward of its own, over Sequentials; two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = layers(), layers(4), layers(4), Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.left(x) + self.right(x))


def follow(
    kind: Callable[[], nn.Module],
    wrap: Callable[[nn.Module], Any],
    steps: Sequence[Sequence[torch.Tensor]],
    averaged: bool = True,
    before: Callable[[nn.Module, int], None] = lambda model, step: None,
) -> nn.Module:
    """Train through ``wrap(model)``, and beside it in one process; both must come out alike."""
    model = make(kind)
    expected, run = copy.deepcopy(model), wrap(model)
    for turn, batches in enumerate(steps):
        before(model, turn)
        before(expected, turn)
        expected = train_alone(expected, batches, 1)
        train(run, model, batches[dist.get_rank()], 1, averaged)
        assert_alike(model, expected)
    return model


def both_orders(model: nn.Module, outer: bool, **given: Any) -> Any:
    if outer:
        return compiled(DistributedDataParallel(model), **given)
    return DistributedDataParallel(compiled(model, **given))


def steps(count: int = 2, sides: Sequence[int] = (6,)) -> list[list[torch.Tensor]]:
    return [images(sizes(), sides[turn % len(sides)]) for turn in range(count)]


def case_ddp_in_both_orders() -> None:
    """Sequentials: outside, Dynamo never starts on their frames, and the backend is not called."""
    for outer in (True, False):
        for kind in (plain, Own):
            follow(kind, functools.partial(both_orders, outer=outer), steps())


def _sharded(model: nn.Module, whole: bool = True) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.children():
        fully_shard(block, mesh=mesh)
    return compiled(fully_shard(model, mesh=mesh))


def check_sharded(kind: Callable[[], nn.Module], turns: Sequence[Sequence[torch.Tensor]]) -> None:
    """FSDP2 block by block: the gathered model is what one process has."""
    model = make(kind)
    expected, run = copy.deepcopy(model), _sharded(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for turn, batches in enumerate(turns):
        scheduled(model, turn)
        scheduled(expected, turn)
        expected = train_alone(expected, batches, 1)
        loss_of(run(batches[dist.get_rank()]), dist.get_rank()).backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter.full_tensor(), expected.get_parameter(name), rtol=1e-9, atol=1e-9
            )
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, expected.get_buffer(name), rtol=1e-9, atol=1e-9)


def case_fully_sharded_by_block() -> None:
    for kind in (plain, Own):
        check_sharded(kind, steps())


def case_fsdp1_with_flat_parameters() -> None:
    model, batches = make(Own), images(sizes())
    expected = train_alone(model, batches, 1)
    run = compiled(FullyShardedDataParallel(model, device_id=torch.device("cpu")))
    loss_of(run(batches[dist.get_rank()]), dist.get_rank())
    found = dict(run.named_buffers())
    for name, buffer in expected.named_buffers():
        (mine,) = [value for key, value in found.items() if key.endswith(name)]
        torch.testing.assert_close(mine, buffer)


class Looping(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in (self.stem, self.left, self.right, self.head):
            x = part(x)
            if not torch.isfinite(x).all():
                raise FloatingPointError
        return x


def case_data_dependent_breaks() -> None:
    follow(Looping, lambda model: DistributedDataParallel(compiled(model)), steps())


def case_recompile_limit_by_sizes() -> None:
    with limited():
        wrap = lambda m: DistributedDataParallel(compiled(m, dynamic=False))  # noqa: E731
        follow(Own, wrap, steps(LIMIT + 2, range(4, 20)))


def scheduled(model: nn.Module, turn: int) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5 * 0.8**turn


def case_recompile_limit_by_momentum() -> None:
    for kind in (plain, Own):
        with limited():
            follow(
                kind,
                lambda m: DistributedDataParallel(compiled(m)),
                steps(LIMIT + 2),
                before=scheduled,
            )


def _uneven(turn: int) -> list[torch.Tensor]:
    """The last rank's images change in size from step to step, its peers' do not."""
    changing, fixed = images(sizes(), 4 + turn), images(sizes())
    return [*fixed[:-1], changing[-1]]


def case_one_rank_stops_compiling() -> None:
    """The last rank reaches the limit and runs layers by themselves; its peers go on in graphs.

    Images of different sizes cannot be concatenated: the truth is converted modules, in eager mode.
    """
    rank = dist.get_rank()
    for data_parallel in (False, True):
        model = make(Own)
        truth = bnfx.convert_sync_batchnorm(copy.deepcopy(model))
        with limited():
            run = compiled(model, "aot_eager", dynamic=False)
            if data_parallel:
                run = DistributedDataParallel(run)
            for turn in range(LIMIT + 2):
                x = _uneven(turn)[rank]
                train(truth, truth, x, 1)
                train(run, model, x, 1, data_parallel)
                for name, value in truth.state_dict().items():
                    found = model.state_dict()[name]
                    torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)


def case_guard_collectives() -> None:
    """torch's own way to keep ranks together: where one has to compile, all do."""
    reports: list[Any] = []
    before = torch.compiler.set_enable_guard_collectives(True)
    try:
        run = compiled(make(Own), dynamic=False, report=reports.append)
        for turn in range(3):
            run(_uneven(turn)[dist.get_rank()])
    finally:
        torch.compiler.set_enable_guard_collectives(before)
    counts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(counts, len(reports))
    assert len(set(counts)) == 1, counts
    assert counts[0] > 1


def case_blocks_compiled_by_themselves() -> None:
    """More widths of one class than graphs a code object may have."""

    class Block(nn.Module):
        def __init__(self, fan_in: int, fan_out: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(fan_in, fan_out, 1), nn.BatchNorm2d(fan_out)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)).relu()

    def kind() -> nn.Module:
        widths = [3, *range(4, 4 + LIMIT + 2), 4]
        blocks = [Block(*pair) for pair in itertools.pairwise(widths)]
        return nn.Sequential(*blocks, Head())

    def wrap(model: nn.Module) -> nn.Module:
        torch._dynamo.reset()
        for block in model:
            block.compile(backend="bnfx", options={"inner": "eager", "sync": "require"})
        return DistributedDataParallel(model)

    with limited():
        follow(kind, wrap, steps(1))


def case_what_is_disabled() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.rest = layers(), nn.Sequential(layers(4), Head())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rest(torch.compiler.disable(self.stem)(x))

    follow(Part, lambda model: DistributedDataParallel(compiled(model)), steps())


def case_errors_suppressed() -> None:
    """The inner compiler fails, and Dynamo says nothing and runs the frame."""

    def broken(module: Any, example_inputs: Any) -> Any:
        raise NotImplementedError

    with torch._dynamo.config.patch(suppress_errors=True):
        follow(Own, lambda model: DistributedDataParallel(compiled(model, broken)), steps())


class Recomputed(Looping):
    """Checkpoints outside of graphs: backward computes again, outside of the compiled call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in (self.stem, self.left):
            x = checkpoint(part, x, use_reentrant=False)
            if not torch.isfinite(x).all():
                raise FloatingPointError
        return self.head(x)


def case_checkpoints_outside() -> None:
    model = make(Recomputed)
    turns = steps()
    expected, run = copy.deepcopy(model), compiled(model)
    for batches in turns:
        expected = _without_checkpoints(expected, batches)
        train(run, model, batches[dist.get_rank()], 1)
        for name, value in expected.state_dict().items():
            if "tracked" not in name:  # torch's own forward counts each time
                torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-10)


def _without_checkpoints(model: nn.Module, batches: Sequence[torch.Tensor]) -> nn.Module:
    class Straight(Recomputed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.left(self.stem(x)))

    model.__class__ = Straight
    return train_alone(model, batches, 1)


class _Reversed(torch.autograd.Function):
    """``y1 = x1 + f(x2); y2 = x2 + g(y1)``; backward computes the inputs from the outputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, f: nn.Module, g: nn.Module, *weights: Any) -> Any:
        first, second = x.chunk(2, 1)
        ctx.f, ctx.g, ctx.weights = f, g, weights
        with torch.no_grad():
            first = first + f(second)
            second = second + g(first)
        ctx.save_for_backward(first, second)
        return torch.cat([first, second], 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (y1, y2), (g1, g2) = ctx.saved_tensors, grad.chunk(2, 1)
        f_weights, g_weights = [list(m.parameters()) for m in (ctx.f, ctx.g)]
        with torch.enable_grad():
            y1 = y1.detach().requires_grad_()
            out = ctx.g(y1)
        to_y1, *to_g = torch.autograd.grad(out, [y1, *g_weights], g2)
        x2, g1 = y2 - out.detach(), g1 + to_y1
        with torch.enable_grad():
            x2 = x2.detach().requires_grad_()
            out = ctx.f(x2)
        to_x2, *to_f = torch.autograd.grad(out, [x2, *f_weights], g1)
        return torch.cat([g1, g2 + to_x2], 1), None, None, *to_f, *to_g


class Reversible(nn.Module):
    straight = False

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.f, self.g = layers(4), layers(4)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.straight:
            first, second = x.chunk(2, 1)
            first = first + self.f(second)
            x = torch.cat([first, second + self.g(first)], 1)
        else:
            x = _Reversed.apply(x, self.f, self.g, *self.f.parameters(), *self.g.parameters())
        return self.head(x)


def case_reversible_blocks() -> None:
    model = make(Reversible)
    expected, run = copy.deepcopy(model), compiled(model)
    expected.straight = True
    for batches in steps():
        expected = train_alone(expected, batches, 1)
        train(run, model, batches[dist.get_rank()], 1)
        for name, value in expected.state_dict().items():
            if "tracked" not in name:
                torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-9)


class Doubled(nn.BatchNorm2d):
    """A forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def case_classes_of_their_own() -> None:
    for norm in (Doubled, BatchNormAct2d):

        def kind(norm: Any = norm) -> nn.Module:
            return nn.Sequential(layers(norm=norm), layers(4, norm), Head())

        follow(kind, lambda model: compiled(DistributedDataParallel(model)), steps())
        with limited():
            wrap = lambda m: DistributedDataParallel(compiled(m))  # noqa: E731
            follow(kind, wrap, steps(LIMIT + 2), before=scheduled)


def one_value() -> nn.Module:
    return nn.Sequential(layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))


def case_one_value_on_a_rank() -> None:
    """BatchNorm1d behind a pooling: a rank with one sample has one value a channel."""
    turns = [images([1] + [3] * (dist.get_world_size() - 1)) for _ in range(2)]
    orders = [functools.partial(both_orders, outer=outer) for outer in (True, False)]
    for wrap in (compiled, *orders):
        follow(one_value, wrap, turns, averaged=wrap is not compiled)


def case_cumulative_average() -> None:
    def kind(base: Callable[[], nn.Module]) -> nn.Module:
        model = base()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        return model

    for base in (plain, Own, Looping):
        make_it = functools.partial(kind, base)
        follow(make_it, lambda model: compiled(DistributedDataParallel(model)), steps(3))
    torch._dynamo.reset()
    options = {"inner": "aot_eager"}
    follow(
        functools.partial(kind, Own),
        lambda m: torch.compile(m, backend="bnfx", fullgraph=True, options=options),
        steps(3),
        averaged=False,
    )


def case_other_models_are_left_alone() -> None:
    """Only calls of what bnfx compiled share: not another net of the process, nor one
    that another backend compiled.
    """
    batches = images(sizes())
    x = batches[dist.get_rank()]
    compiled(make(plain))(x)
    for wrap in (
        lambda model: model,
        lambda model: torch.compile(model, backend="aot_eager"),
        lambda model: compiled(model, sync="off"),
    ):
        model = make(Looping)
        expected = train_alone(model, [x], 1)
        wrap(model)(x)
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, self.mean, self.var, training=True)


def case_the_function_at_the_limit() -> None:
    """Outside of graphs a call of the function is not seen: that is said before it gets there."""
    with limited():
        for sync, told in (("auto", pytest.warns), ("require", pytest.raises)):
            kind = bnfx.SyncWarning if sync == "auto" else bnfx.SyncError
            run = compiled(Functional().double(), dynamic=False, sync=sync)
            for turn in range(LIMIT):
                x = images(sizes(), 4 + turn)[dist.get_rank()]
                if turn < LIMIT - 1:
                    run(x)
                    continue
                with told(kind, match=r"F\.batch_norm in code .* use a BatchNorm module"):
                    run(x)


def case_compilation_disabled() -> None:
    """Layers share where Dynamo does nothing; where torch.compile does nothing, it is said."""
    with torch._dynamo.config.patch(disable=True):
        follow(plain, compiled, steps(1), averaged=False)
    x = images(sizes())[dist.get_rank()]
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        run = torch.compile(make(plain), backend="bnfx")
        with pytest.warns(bnfx.SyncWarning, match="TORCHDYNAMO_DISABLE=1 disables torch.compile"):
            run(x)
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]


def case_required_outside() -> None:
    """Without a group, the first layer raises though the backend was never called."""
    model, x = make(plain), images(sizes())[dist.get_rank()]
    wrapped = nn.Sequential(model)
    world, rank = dist.get_world_size(), dist.get_rank()
    dist.destroy_process_group()
    with torch._dynamo.config.patch(suppress_errors=True):
        with pytest.raises(bnfx.SyncError, match=r"^0\.0\.1 runs in training with sync=.require"):
            compiled(wrapped, torch.compiler.disable(lambda module, inputs: module))(x)
        compiled(wrapped.eval())(x)
        wrapped.train()
        compiled(wrapped, sync="auto")(x)
    assert model[0][1].num_batches_tracked == 1
    store = os.environ["SYNC_RENDEZVOUS"]
    dist.init_process_group(
        "gloo", init_method=f"file://{store}outside", rank=rank, world_size=world
    )


def case_estimated() -> None:
    """``bnfx.estimate_statistics``: over ranks, by size, in evaluation but for BatchNorm."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps_ = [images([2 + (r + turn) % 3 for r in range(world)], 6) for turn in range(3)]
    steps_.append(images([3] + [0] * (world - 1)))  # the first rank has one batch more

    def kind() -> nn.Module:
        return nn.Sequential(layers(), nn.Dropout(0.9), layers(4), Head())

    truth = make(kind).eval()
    norms = [module for module in truth.modules() if isinstance(module, nn.BatchNorm2d)]
    total, found = 0, [(torch.zeros(4).double(), torch.zeros(4).double()) for _ in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    for batches in steps_:
        x = torch.cat(batches)
        truth(x)
        total += len(x)
        for norm, (mean, var) in zip(norms, found, strict=True):
            mean += len(x) * norm.running_mean
            var += len(x) * norm.running_var
    wraps = (lambda m: m, compiled, lambda m: compiled(DistributedDataParallel(m)))
    for wrap in (*wraps, bnfx.convert_sync_batchnorm):
        model = make(kind)
        run = wrap(model)
        model[0].eval()
        modes = [module.training for module in model.modules()]
        loader = [(batches[rank], "labels") for batches in steps_ if len(batches[rank])]
        bnfx.estimate_statistics(run, loader, progress=False)
        assert [module.training for module in model.modules()] == modes
        own = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm, (mean, var) in zip(own, found, strict=True):
            assert norm.momentum == 0.1
            torch.testing.assert_close(norm.running_mean, mean / total, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(norm.running_var, var / total, rtol=1e-12, atol=1e-12)

    model = make(kind)
    before = copy.deepcopy(model.state_dict())

    def failing() -> Iterator[torch.Tensor]:
        yield steps_[0][rank]
        if rank == 0:
            raise OSError("the disk is full")
        yield steps_[1][rank]

    error, words = (OSError, "the disk is full") if rank == 0 else (bnfx.SyncError, "rank 0 raised")
    with pytest.raises(error, match=words):
        bnfx.estimate_statistics(model, failing())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.training
    assert model[0][1].momentum == 0.1


def case_refused() -> None:
    """What is no process group, and what cannot go through shared statistics."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = torch.randn(3, 4)
    for group, words in ((mesh, "pass its get_group"), ([0, 1], "pass torch.distributed.new")):
        for refused in (
            lambda group=group: bnfx.convert_sync_batchnorm(nn.BatchNorm1d(4), group),
            lambda group=group: bnfx.sync_batch_norm(x, None, None, group=group),
            lambda group=group: bnfx.SyncBatchNorm(4, process_group=group),
        ):
            with pytest.raises(bnfx.OptionError, match=words):
                refused()
    norm = bnfx.SyncBatchNorm(4)
    with pytest.raises(TypeError, match=r"DTensor cannot share .* to_local\(\)"):
        norm(distribute_tensor(torch.randn(4, 4), mesh, [Shard(0)]))
    norm = bnfx.SyncBatchNorm(4, track_running_stats=False)  # else torch refuses its counter first
    with pytest.raises(bnfx.SyncError, match=r"torch\.func\.grad, vmap"):
        torch.func.grad(lambda x: norm(x).square().sum())(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(bnfx.SyncError, match="forward-mode"):
            norm(dual)


def case_segmentation() -> None:
    """Ten steps of a segmentation net of Sequentials: schedule of momentum, changing sizes."""
    turns = steps(10, (8, 12, 10))
    for outer in (True, False):
        wrap = functools.partial(both_orders, outer=outer)
        follow(Segmenter, wrap, turns, before=scheduled)
    check_sharded(Segmenter, turns)
