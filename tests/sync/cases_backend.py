"""Cases of the backend, training under a process group; see test_ranks.py."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from support import randomise
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnfx
from bnfx.weights.changes.snapshot import Snapshot
from sync.counting import Graphs
from sync.reference import loss_of
from sync.training import Net, assert_alike, images, make, sizes, train, train_alone

# What more ranks than two have to show; with two, all cases run.
WORLDS = {
    3: ("case_whole_graphs", "case_empty_rank"),
    4: ("case_whole_graphs", "case_empty_rank"),
}


def compiled(model: Any, inner: str = "aot_eager", fullgraph: bool = True, **options: Any) -> Any:
    torch._dynamo.reset()
    options = {"inner": inner, **options}
    return torch.compile(model, backend="bnfx", fullgraph=fullgraph, options=options)


def case_whole_graphs() -> None:
    """Forward, backward and statistics of two steps equal those of one process."""
    batches = images(sizes())
    model, reports = make(), []
    expected = train_alone(model, batches)
    run = compiled(model, report=reports.append)
    train(run, model, batches[dist.get_rank()])
    assert_alike(model, expected)
    (report,) = reports
    assert report.count("synchronised") == len(report.verdicts) == 3


class Wide(Net):
    """Large enough in the middle that DDP's graph splitter cuts between BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(36, 4000), nn.Linear(4000, 36)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = self.narrow(self.wide(x.flatten(2)).relu()).view(x.shape)
        x = (self.left_norm(self.left(x)) + self.right_norm(self.right(x))).relu()
        return self.head(x.mean((2, 3)))


def case_ddp() -> None:
    batches = images(sizes())
    x = batches[dist.get_rank()]
    for split in (True, False):
        with torch._dynamo.config.patch(optimize_ddp=split):
            model, reports = make(Wide), []
            expected = train_alone(model, batches)
            ddp = DistributedDataParallel(model, bucket_cap_mb=1)
            run = compiled(ddp, fullgraph=False, report=reports.append)
            train(run, model, x, averaged=True)
            assert_alike(model, expected)
            assert sum(report.count("synchronised") for report in reports) == 3
            synchronised = [report.count("synchronised") for report in reports]
            assert (sum(map(bool, synchronised)) > 1) == split, synchronised


def case_ddp_around() -> None:
    batches = images(sizes())
    model = make()
    expected = train_alone(model, batches)
    torch._dynamo.reset()
    model.compile(backend="bnfx", fullgraph=True, options={"inner": "aot_eager"})
    train(DistributedDataParallel(model), model, batches[dist.get_rank()], averaged=True)
    assert_alike(model, expected)


def case_empty_rank() -> None:
    batches = images([0] + [3] * (dist.get_world_size() - 1))
    model = make()
    expected = train_alone(model, batches)
    train(compiled(model), model, batches[dist.get_rank()])
    assert_alike(model, expected)


class Checkpointed(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(lambda x: self.stem_norm(self.stem(x)).relu(), x, use_reentrant=False)

        def block(x: torch.Tensor) -> torch.Tensor:
            return (self.left_norm(self.left(x)) + self.right_norm(self.right(x))).relu()

        x = checkpoint(block, x, use_reentrant=False)
        return self.head(x.mean((2, 3)))


def case_checkpointing() -> None:
    batches = images(sizes())
    model, reports = make(Checkpointed), []
    expected = train_alone(make(), batches)
    run = compiled(model, "aot_eager", report=reports.append)
    train(run, model, batches[dist.get_rank()])
    assert sum(report.count("synchronised") for report in reports) == 3
    assert_alike(model, expected)


def case_checkpointing_around() -> None:
    """Eager checkpointing of a compiled model: recomputed in backward, statistics updated once.

    (The counter of batches, which is the user's graph's own, counts twice, as without bnfx.)
    Both graphs have to save the same, with Inductor's decompositions too; more in cases_recomputed.
    """
    rank = dist.get_rank()
    batches = images(sizes())
    model = make()
    expected = train_alone(model, batches, 1)
    run = compiled(model, "aot_eager_decomp_partition", fullgraph=False)
    x = batches[rank].clone().requires_grad_()
    loss_of(checkpoint(run, x, use_reentrant=False), rank).backward()
    for name, buffer in model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, expected.get_buffer(name))


def case_collectives() -> None:
    """Two BatchNorms side by side share one all-gather, and one all-reduce."""
    for kind in (Net, Checkpointed):
        inner, model = Graphs(), make(kind)
        batches = images(sizes())
        expected = train_alone(make(), batches)
        train(compiled(model, inner), model, batches[dist.get_rank()])
        assert_alike(model, expected)
        assert inner.counts("forward") == (2, 0)
        recomputed = 2 if kind is Checkpointed else 0
        assert inner.counts("backward") == (recomputed, 2)


def case_torchvision() -> None:
    """resnet18 under DDP: no graph break, 20 BatchNorms, 17 collectives each way."""
    model = torchvision.models.resnet18(num_classes=4).double()
    batches = images([1] * dist.get_world_size(), side=64)
    expected = train_alone(model, batches, steps=1)
    inner, reports = Graphs(), []
    options = {"inner": inner, "report": reports.append}
    model.compile(backend="bnfx", fullgraph=True, options=options)
    train(DistributedDataParallel(model), model, batches[dist.get_rank()], steps=1, averaged=True)
    verdicts = [verdict for report in reports for verdict in report.verdicts]
    assert [verdict.outcome.value for verdict in verdicts] == ["synchronised"] * 20
    assert len({verdict.site.name for verdict in verdicts}) == 20
    assert (inner.counts("forward"), inner.counts("backward")) == ((17, 0), (0, 17))
    assert_alike(model, expected, 1e-9)


def case_batch_statistics_alone() -> None:
    """Layers that keep no statistics are synchronised in training."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    batches = [x.flatten()[: 4 * len(x)].view(-1, 4) for x in images(sizes())]
    expected = train_alone(model, batches)
    train(compiled(model), model, batches[dist.get_rank()])
    assert_alike(model, expected)


def case_accumulation() -> None:
    """Gradients of two batches add up, the first under no_sync; statistics follow both."""
    rank, world = dist.get_rank(), dist.get_world_size()
    batches = [images(sizes()), [2 * x - 1 for x in images(sizes())]]
    model = make()
    expected = copy.deepcopy(model)
    for some in batches:
        outputs = expected(torch.cat(some)).split(sizes())
        (sum(loss_of(o, r) for r, o in enumerate(outputs)) / world).backward()
    ddp = DistributedDataParallel(model)
    run = compiled(ddp, fullgraph=False)
    with ddp.no_sync():
        loss_of(run(batches[0][rank]), rank).backward()
    loss_of(run(batches[1][rank]), rank).backward()
    assert_alike(model, expected)
    for actual, right in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, right.grad)


def case_other_sizes() -> None:
    """Batches change from step to step: one rank's graph is dynamic while another's is not yet."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = make()
    expected, run = copy.deepcopy(model), compiled(model)
    for turn in range(3):
        batches = images([3 + turn * (r % 2) for r in range(world)])
        expected = train_alone(expected, batches, 1)
        train(run, model, batches[rank], 1)
        assert_alike(model, expected)


def case_dynamic() -> None:
    """Sizes, eps and momentum that are no constants of the graph, on one rank alone."""
    rank = dist.get_rank()
    batches = images(sizes())
    model = make()
    expected = train_alone(model, batches)
    torch._dynamo.reset()
    options = {"inner": "aot_eager"}
    run = torch.compile(model, backend="bnfx", options=options, dynamic=rank == 0, fullgraph=True)
    train(run, model, batches[rank])
    assert_alike(model, expected)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(128, 128, 3, bias=False), nn.BatchNorm2d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def case_a_shard_is_written_to() -> None:
    """The gathered weight keeps its address and its version, whatever is written to a shard."""
    torch.manual_seed(0)
    plain = nn.Sequential(randomise(Part()), nn.Conv2d(128, 2, 1)).double().eval()
    model = copy.deepcopy(plain)
    fully_shard(model[0], reshard_after_forward=True)
    gathered = torch.randn(128 * 128 * 9, dtype=torch.float64)
    snapshot = Snapshot([gathered])
    with torch.autograd._unsafe_preserve_version_counter((gathered,)):  # as FSDP writes to it
        gathered[12345] += 1
    assert not snapshot.still_holds([gathered])

    run = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x = torch.randn(1, 128, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = plain[0].conv.weight
    with torch.no_grad():
        for step in range(6):
            for _ in range(3):
                torch.testing.assert_close(run(x), plain(x))
            shard = model[0].conv.weight
            gradient = torch.zeros_like(weight)
            gradient[(37 * step) % 128, 3, 1, 1] = 10.0
            given = distribute_tensor(gradient, shard.device_mesh, shard.placements)
            if step % 2:
                shard.grad = given
                optimizer.step()
                optimizer.zero_grad()
            else:
                shard.to_local().sub_(given.to_local())
            weight -= gradient


def case_fully_sharded() -> None:
    """FSDP2: parameters are sharded, statistics shared; eager and compiled."""
    batches = images(sizes())
    x = batches[dist.get_rank()]
    expected = train_alone(make(), batches, 1)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for eager in (True, False):
        model, reports = make(), []
        if eager:
            bnfx.convert_sync_batchnorm(model)
        fully_shard(model, mesh=mesh)
        run = model if eager else compiled(model, fullgraph=False, report=reports.append)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss_of(run(x), dist.get_rank()).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.full_tensor(), expected.get_parameter(name))
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, expected.get_buffer(name))
        assert sum(report.count("synchronised") for report in reports) == (0 if eager else 3)


def _with_another_backend(model: nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def case_our_modules() -> None:
    """A converted model: eager, and compiled by the backend and by another."""
    batches = images(sizes())
    x = batches[dist.get_rank()]
    expected = train_alone(make(), batches)
    model = bnfx.convert_sync_batchnorm(make())
    train(model, model, x)
    assert_alike(model, expected)
    for compile_ in (compiled, _with_another_backend):
        model = bnfx.convert_sync_batchnorm(make())
        train(compile_(model), model, x)
        assert_alike(model, expected)
    ddp = DistributedDataParallel(bnfx.convert_sync_batchnorm(make()))
    train(ddp, ddp.module, x, averaged=True)
    assert_alike(ddp.module, expected)
