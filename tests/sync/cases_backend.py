"""Cases of the backend, training under a process group; see test_backend.py."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnfx
from sync.counting import Graphs
from sync.reference import loss_of
from sync.training import Net, assert_alike, images, make, sizes, train, train_alone


def compiled(model: Any, inner: str = "aot_eager", fullgraph: bool = True, **options: Any) -> Any:
    torch._dynamo.reset()
    options = {"inner": inner, **options}
    return torch.compile(model, backend="bnfx", fullgraph=fullgraph, options=options)


def case_whole_graphs() -> None:
    """Forward, backward and statistics of two steps equal those of one process."""
    batches = images(sizes())
    for inner in ("aot_eager", "inductor"):
        model, reports = make(), []
        expected = train_alone(model, batches)
        run = compiled(model, inner, report=reports.append)
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
    for inner in ("aot_eager", "inductor"):
        model = make()
        expected = train_alone(model, batches)
        train(compiled(model, inner), model, batches[dist.get_rank()])
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
    """
    rank = dist.get_rank()
    batches = images(sizes())
    model = make()
    expected = train_alone(model, batches, 1)
    run = compiled(model, fullgraph=False)
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
    x = batches[dist.get_rank()]
    assert torch._dynamo.explain(copy.deepcopy(model))(x).graph_break_count == 0
    torch._dynamo.reset()
    expected = train_alone(model, batches, steps=1)
    inner, reports = Graphs(), []
    options = {"inner": inner, "report": reports.append}
    model.compile(backend="bnfx", fullgraph=True, options=options)
    train(DistributedDataParallel(model), model, x, steps=1, averaged=True)
    verdicts = [verdict for report in reports for verdict in report.verdicts]
    assert [verdict.outcome.value for verdict in verdicts] == ["synchronised"] * 20
    assert len({verdict.site.name for verdict in verdicts}) == 20
    assert (inner.counts("forward"), inner.counts("backward")) == ((17, 0), (0, 17))
    assert_alike(model, expected, 1e-9)


def case_guarded() -> None:
    """Compiled before the group is up, and after it is destroyed: compiled anew, and right."""
    rank, world = dist.get_rank(), dist.get_world_size()
    store = os.environ["SYNC_RENDEZVOUS"]
    batches = images(sizes())
    model, reports = make(), []
    start = copy.deepcopy(model.state_dict())
    run = compiled(model, report=reports.append)

    def step() -> None:
        model.load_state_dict(start)
        loss_of(run(batches[rank]), rank).backward()
        for parameter in model.parameters():
            parameter.grad = None

    together, alone = (train_alone(make(), some, 1) for some in (batches, [batches[rank]]))
    buffers = [name for name, _ in model.named_buffers()]
    for turn in range(2):
        step()
        assert all(torch.allclose(model.state_dict()[n], together.state_dict()[n]) for n in buffers)
        dist.destroy_process_group()
        step()
        assert all(torch.allclose(model.state_dict()[n], alone.state_dict()[n]) for n in buffers)
        dist.init_process_group(
            "gloo", init_method=f"file://{store}{turn}", rank=rank, world_size=world
        )
    assert [report.count("synchronised") for report in reports] == [3, 0]


def case_options() -> None:
    """Off; and a group of the first two ranks, which leaves the others local."""
    rank = dist.get_rank()
    batches = images(sizes())
    model, reports = make(), []
    expected = train_alone(model, [batches[rank]], 1)
    compiled(model, sync="off", report=reports.append)(batches[rank])
    assert reports[0].count("kept") == 3
    buffers = [name for name, _ in model.named_buffers()]
    assert all(torch.equal(model.state_dict()[n], expected.state_dict()[n]) for n in buffers)

    group = dist.new_group([0, 1])
    model, reports = make(), []
    mine = batches[:2] if rank < 2 else [batches[rank]]
    expected = train_alone(model, mine, 1)
    run = compiled(model, process_group=group, sync="require", report=reports.append)
    loss_of(run(batches[rank]), rank).backward()
    for name in buffers:
        torch.testing.assert_close(model.state_dict()[name], expected.state_dict()[name])
    assert reports[0].count("synchronised") == (3 if rank < 2 else 0)
    dist.barrier()
    dist.destroy_process_group(group)
    if rank < 2:
        with pytest.raises(bnfx.SyncError, match="cannot be used: it was destroyed"):
            run(batches[rank])


def case_required() -> None:
    """An error where no group is up, in training alone; and for what cannot be synchronised."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x = images(sizes())[rank]
    dist.destroy_process_group()
    model = make()
    with pytest.raises(bnfx.SyncError, match="no process group is up"):
        compiled(model, sync="require")(x)
    with torch.no_grad():
        compiled(model.eval(), sync="require")(x)
    model.train()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['SYNC_RENDEZVOUS']}required",
        rank=rank,
        world_size=world,
    )

    class Native(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0]

    with pytest.raises(bnfx.SyncError, match=r"native_batch_norm.* is no BatchNorm that can be"):
        compiled(Native(), sync="require")(x)


def case_caches() -> None:
    """float32; AOTAutograd's cache keeps what was compiled, so that a second start is quick."""
    batches = images(sizes(), dtype=torch.float32)
    start = make(dtype=torch.float32)
    expected = train_alone(copy.deepcopy(start).double(), [x.double() for x in batches])
    for turn in range(2):
        counters.clear()
        model = copy.deepcopy(start)
        train(compiled(model, "inductor"), model, batches[dist.get_rank()])
        assert_alike(model, expected, 2e-5)
        found = counters["aot_autograd"]
        assert found["autograd_cache_bypass"] == 0
        assert turn == 0 or found["autograd_cache_hit"] == 1, found


def case_batch_statistics_alone() -> None:
    """Layers that keep no statistics are synchronised in training."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    batches = [x.flatten()[: 4 * len(x)].view(-1, 4) for x in images(sizes())]
    expected = train_alone(model, batches)
    train(compiled(model), model, batches[dist.get_rank()])
    assert_alike(model, expected)


def case_evaluation_is_local() -> None:
    """Rank 0 alone evaluates, with and without running statistics: nobody is waited for."""
    if dist.get_rank() == 0:
        model = nn.Sequential(make(), nn.BatchNorm1d(4, track_running_stats=False)).double().eval()
        x, reports = images(sizes())[0], []
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                out = compiled(model, report=reports.append)(x)
                torch.testing.assert_close(out, model(x))
        assert [report.count("folded") for report in reports] == [3, 3]
        assert [report.count("synchronised") for report in reports] == [0, 0]
    dist.barrier()


class Frozen(Net):
    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        self.stem_norm.eval()
        return self


def case_frozen_layers() -> None:
    """Some BatchNorms in evaluation; training with gradients, and without."""
    batches = images(sizes())
    x, reports = batches[dist.get_rank()], []
    model = make(Frozen).train()
    expected = train_alone(model, batches)
    train(compiled(model, report=reports.append), model, x)
    assert_alike(model, expected)
    (report,) = reports
    outcomes = {verdict.site.name: verdict.outcome.value for verdict in report.verdicts}
    assert outcomes == {
        "stem_norm": "folded",
        "left_norm": "synchronised",
        "right_norm": "synchronised",
    }
    with torch.no_grad():
        expected = copy.deepcopy(model)
        right = expected(torch.cat(batches)).split(sizes())[dist.get_rank()]
        out = compiled(model, report=reports.append)(x)
    torch.testing.assert_close(out, right)
    assert_alike(model, expected)
    assert reports[-1].count("folded") == 1
    assert reports[-1].count("synchronised") == 2


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


def case_bfloat16() -> None:
    batches = images(sizes(), dtype=torch.bfloat16)
    model = make(dtype=torch.bfloat16)
    expected = train_alone(copy.deepcopy(model).double(), [x.double() for x in batches], 1)
    train(compiled(model, "inductor"), model, batches[dist.get_rank()], 1)
    assert_alike(model, expected, 3e-2)


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


def case_our_modules() -> None:
    """A converted model: eager, and compiled by the backend and by another."""
    batches = images(sizes())
    x = batches[dist.get_rank()]
    expected = train_alone(make(), batches)
    model = bnfx.convert_sync_batchnorm(make())
    train(model, model, x)
    assert_alike(model, expected)
    for backend in ("bnfx", "aot_eager"):
        torch._dynamo.reset()
        model = bnfx.convert_sync_batchnorm(make())
        train(torch.compile(model, backend=backend, fullgraph=True), model, x)
        assert_alike(model, expected)
    ddp = DistributedDataParallel(bnfx.convert_sync_batchnorm(make()))
    train(ddp, ddp.module, x, averaged=True)
    assert_alike(ddp.module, expected)
