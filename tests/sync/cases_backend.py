"""Cases of the backend, training under a process group; see test_backend.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

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
