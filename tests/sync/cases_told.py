"""Ranks that are at different layers, or cannot agree on an order, are told; see test_outside.py.

In each, both ranks would merge statistics of layers that have as many channels: nothing would hang.
"""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import fail_on_warnings
from torch import nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

import bnfx
from bnfx.sync import waiting as waits
from sync.cases_outside import LIMIT, Own, _uneven, compiled, layers, limited, plain
from sync.reference import loss_of
from sync.training import assert_alike, images, make, train, train_alone


def batch() -> torch.Tensor:
    return images([2] * dist.get_world_size())[dist.get_rank()]


def told(mine: str, other: str) -> Any:
    """The last rank is at ``other``; each says where itself is."""
    last = dist.get_world_size() - 1
    here, there, rank = (mine, other, last) if dist.get_rank() != last else (other, mine, 0)
    words = rf"rank {dist.get_rank()} is at BatchNorm .*{here}, and rank {rank} at .*{there}: all"
    return pytest.raises(bnfx.MismatchError, match=words)


def is_last() -> bool:
    return dist.get_rank() == dist.get_world_size() - 1


def converted(model: nn.Module) -> nn.Module:
    return bnfx.convert_sync_batchnorm(model)


def in_a_graph(model: nn.Module) -> Any:
    return compiled(model, "aot_eager")


def outside(model: nn.Module) -> Any:
    run = compiled(model)

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.compiler.set_stance("force_eager"):
            return run(x)

    return call


WAYS: tuple[Callable[[nn.Module], Any], ...] = (in_a_graph, outside, converted)


def case_frozen_on_one_rank() -> None:
    for way in WAYS:
        model = make(Own)
        run = way(model)
        if is_last():
            model.stem[1].eval()
        with told(r"stem\.1", r"left\.1"):
            run(batch())


class Longer(nn.Module):
    """One layer more on the last rank."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.extra, self.last = layers(), layers(4), layers(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.last(self.extra(x) if is_last() else x)


def case_another_layer_on_one_rank() -> None:
    for way in (in_a_graph, outside):
        with told(r"last\.1", r"extra\.1"):
            way(make(Longer))(batch())


def case_a_rank_that_gives_up_a_step() -> None:
    """It catches an error of its own between layers, and goes on with the next step."""

    def fail(module: nn.Module, args: Any) -> None:
        raise ValueError("a bad image")

    for way in (outside, converted):
        model = make(plain)
        run = way(model)
        run(batch())
        if is_last():
            with model[1].register_forward_pre_hook(fail), pytest.raises(ValueError, match="bad"):
                run(batch())
        with told(r"1\.1", r"0\.1"):
            run(batch())


def case_threads_that_call_parts() -> None:
    """One after the other on each rank, but not in the same order."""
    model = make(Own)
    run = compiled(model)
    x = torch.randn(2, 4, 6, 6).double()
    order = (run.right, run.left) if is_last() else (run.left, run.right)
    with ThreadPoolExecutor(1) as pool, told(r"left\.1", r"right\.1"):
        pool.submit(order[0], x).result()


def case_two_models_in_two_threads() -> None:
    """The second thread is told at once, while the first waits for its peers."""
    store, world = c10d._get_default_store(), dist.get_world_size()
    first, second = (compiled(make(plain)) for _ in range(2))
    x, name = batch(), f"threads{dist.get_rank()}"
    if dist.get_rank():
        store.wait(["threads0"])
    else:
        waiting = threading.Thread(target=first, args=(x,))
        waiting.start()
        while not waits._within:
            time.sleep(0.01)
        with pytest.raises(bnfx.SyncError, match=r"BatchNorm 0\.1.* is to .* while another thread"):
            second(x)
        store.set(name, "told")
        waiting.join()
    if dist.get_rank():
        first(x)
    second(x)
    assert world == dist.get_world_size()


def case_join() -> None:
    """A rank that is out of batches would not come."""
    words = "trains where DDP's join.. is in use"
    for wrap in (
        lambda sync: DistributedDataParallel(compiled(make(Own), sync=sync)),
        lambda sync: compiled(DistributedDataParallel(make(plain)), sync=sync),
    ):
        run = wrap("require")
        with pytest.raises(bnfx.SyncError, match=words), _ddp(run).join():
            run(batch())
        dist.barrier()
        run = wrap("auto")
        run(batch())  # in a graph, which does not serve any more then
        with _ddp(run).join(), pytest.warns(bnfx.SyncWarning, match=words):
            loss_of(run(batch()), 0).backward()
        with warnings.catch_warnings():
            fail_on_warnings()
            with Join([_ddp(run)], throw_on_early_termination=True):
                loss_of(run(batch()), 0).backward()
            with _ddp(run).join(enable=False):
                loss_of(run(batch()), 0).backward()
    run = DistributedDataParallel(converted(make(plain)))
    with run.join(), pytest.warns(bnfx.SyncWarning, match=r"^0\.1 trains where DDP's join"):
        loss_of(run(batch()), 0).backward()


def _ddp(run: Any) -> DistributedDataParallel:
    return run if isinstance(run, DistributedDataParallel) else run._orig_mod


class Block(nn.Module):
    def __init__(self, fan_in: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(fan_in, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu()


class Broken(nn.Module):
    """Dynamo makes graphs of each block's code, and one serves several of the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(3), *(Block(4) for _ in range(3))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            if not torch.isfinite(x).all():
                raise FloatingPointError
        return x


class Aliased(Own):
    """A layer with two paths, of which code takes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([self.stem, self.left])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages[1](self.stages[0](x)))


def case_nobody_is_told_without_need() -> None:
    """One rank runs layers by themselves while its peers run them in graphs that know less."""
    for kind in (Broken, Aliased):
        model = make(kind)
        truth = converted(copy.deepcopy(model))
        with limited():
            run = compiled(model, "aot_eager", dynamic=False)
            for turn in range(LIMIT + 2):
                x = _uneven(turn)[dist.get_rank()]
                train(truth, truth, x, 1)
                train(run, model, x, 1)
                assert_alike(model, truth, 1e-9)


class WeightsFirst(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.weight, self.bias
        statistics = self.running_mean, self.running_var
        return torch.batch_norm(x, *weights, *statistics, self.training, 0.1, self.eps, True)


class OwnArithmetic(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True)
        return (x - mean) / torch.sqrt(var + self.eps)


def _with(kind: type[nn.BatchNorm2d]) -> nn.Module:
    model = make(plain)
    norm = kind(4).double()
    norm.load_state_dict(model[0][1].state_dict())
    model[0][1] = norm
    return model


def case_a_class_that_calls_torch_s_function() -> None:
    batches = images([2] * dist.get_world_size())
    expected = train_alone(make(plain), batches, 1)
    for way in (in_a_graph, outside):
        model = _with(WeightsFirst)
        train(way(model), model, batches[dist.get_rank()], 1)
        # Its forward does not count.
        model[0][1].num_batches_tracked += 1
        assert_alike(model, expected)


def case_a_class_with_arithmetic_of_its_own() -> None:
    words = r"0\.1, a OwnArithmetic in training, calls no batch_norm"
    for force in ("default", "force_eager"):
        run = compiled(_with(OwnArithmetic), sync="auto")
        with torch.compiler.set_stance(force), pytest.warns(bnfx.SyncWarning, match=words):
            run(batch())
        run = compiled(_with(OwnArithmetic))
        with torch.compiler.set_stance(force), pytest.raises(bnfx.SyncError, match=words):
            run(batch())
        model = _with(OwnArithmetic)
        model[0][1].eval()
        run = compiled(model)
        with torch.compiler.set_stance(force), warnings.catch_warnings():
            fail_on_warnings()
            run(batch())
