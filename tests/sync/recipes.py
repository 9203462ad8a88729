"""The recipes of docs/migrating.md, with the packages that they are for: see test_recipes.py.

``torchrun --standalone --nproc-per-node 2 tests/sync/recipes.py NAME``. Each trains for a few
steps, and compares with one process that has the whole batch.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bnfx
from sync.reference import loss_of
from sync.training import assert_alike, images, make, sizes, train_alone

OPTIONS = {"inner": "eager", "sync": "require"}


def layers(fan_in: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(fan_in, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


def network() -> nn.Module:
    return nn.Sequential(layers(3), layers(4), nn.Conv2d(4, 2, 1))


def truth(model: nn.Module, steps: Sequence[Sequence[torch.Tensor]]) -> nn.Module:
    for batches in steps:
        model = train_alone(model, batches, 1)
    return model


def plain_torchrun() -> None:
    """As many lines as it takes."""
    dist.init_process_group("gloo")
    steps = [images(sizes(), side) for side in (6, 8, 6)]
    for outer in (True, False):
        model = make(network)
        expected = truth(copy.deepcopy(model), steps)
        if outer:
            run: Any = torch.compile(
                DistributedDataParallel(model), backend="bnfx", options=OPTIONS
            )
        else:
            run = DistributedDataParallel(torch.compile(model, backend="bnfx", options=OPTIONS))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for batches in steps:
            optimizer.zero_grad()
            loss_of(run(batches[dist.get_rank()]), dist.get_rank()).backward()
            optimizer.step()
        assert_alike(model, expected)
    dist.destroy_process_group()


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    steps = [images(sizes(), side) for side in (6, 8, 6)]
    for compiled in (True, False):
        model = make(network)
        expected = truth(copy.deepcopy(model), steps)
        if compiled:
            model.compile(backend="bnfx", options=OPTIONS)
        else:
            bnfx.convert_sync_batchnorm(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        run, optimizer = accelerator.prepare(model, optimizer)
        for batches in steps:
            optimizer.zero_grad()
            rank = accelerator.process_index
            accelerator.backward(loss_of(run(batches[rank]), rank))
            optimizer.step()
        assert_alike(accelerator.unwrap_model(run, keep_torch_compile=False), expected)
    accelerator.end_training()


def lightning() -> None:
    import lightning
    from lightning.pytorch.plugins import LayerSync
    from torch.utils.data import DataLoader

    class SharedBatchNorm(LayerSync):
        def apply(self, model: nn.Module) -> nn.Module:
            return bnfx.convert_sync_batchnorm(model)

        def revert(self, model: nn.Module) -> nn.Module:
            return bnfx.revert_sync_batchnorm(model)

    class Task(lightning.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return loss_of(self.net(batch), self.global_rank)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    def compiled_net(task: Task) -> Any:
        task.net.compile(backend="bnfx", options=OPTIONS)
        return task

    def compiled(task: Task) -> Any:
        return torch.compile(task, backend="bnfx", options=OPTIONS)

    ways: dict[str, tuple[list[Any], Callable[[Task], Any]]] = {
        "the plugin": ([SharedBatchNorm()], lambda task: task),
        "the plugin, compiled": ([SharedBatchNorm()], compiled_net),
        "compiled": ([], compiled_net),
        "the task compiled": ([], compiled),
    }
    for way, (plugins, prepared) in ways.items():
        model = make(network)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_steps=3,
            plugins=plugins,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        rank, world = trainer.global_rank, trainer.world_size
        steps = [images([2 + r for r in range(world)], side) for side in (6, 8, 6)]
        expected = truth(copy.deepcopy(model), steps)
        loader = DataLoader([batches[rank] for batches in steps], batch_size=None)
        trainer.fit(prepared(Task(model)), loader)
        assert_alike(model, expected)
        assert type(model[0][1]) is nn.BatchNorm2d, "it is reverted when training ends"
        print(way, "is right", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {each.__name__: each for each in (plain_torchrun, accelerate, lightning)}[sys.argv[1]]()
