"""Cases of when the backend shares statistics: groups, options, modes; see test_ranks.py."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

import bnfx
from sync.cases_backend import compiled
from sync.reference import loss_of
from sync.training import Net, assert_alike, images, make, sizes, train, train_alone

# What more ranks than two have to show; with two, all cases run.
WORLDS: dict[int, tuple[str, ...]] = {3: ("case_options", "case_frozen_layers"), 4: ()}


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


class Cumulative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


def case_cumulative_average() -> None:
    """momentum=None, which torch's own BatchNorm computes as Dynamo cannot capture it."""
    batches = [x.flatten()[: 4 * len(x)].view(-1, 4) for x in images(sizes())]
    x, required = batches[dist.get_rank()], {"sync": "require"}
    for fullgraph in (True, False):
        model = Cumulative().double()
        expected = train_alone(model, batches)
        train(compiled(model, fullgraph=fullgraph, **required), model, x)
        assert_alike(model, expected)
    model = Cumulative().double()
    expected = train_alone(model, batches)
    train(compiled(bnfx.convert_sync_batchnorm(model), **required), model, x)
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
