"""One of two gloo processes that train and evaluate a DDP model; run by test_ddp.py."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from support import randomise, relative
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bnfx


class Net(nn.Module):
    """Large enough at the end that DDP's graph splitter cuts it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
        self.second, self.second_norm = nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64)
        self.head = nn.Sequential(nn.Linear(1600, 400), nn.Linear(400, 400), nn.Linear(400, 400))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first_norm(self.first(x)).relu()
        return self.head(self.second_norm(self.second(x)).flatten(1))


def work(rank: int, file: str, inner: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = randomise(Net())
    ddp = DistributedDataParallel(model, bucket_cap_mb=1)
    reports: list[bnfx.Report] = []
    options = {"inner": inner, "report": reports.append}
    compiled = torch.compile(ddp, backend="bnfx", options=options)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x = torch.randn(4, 3, 9, 9) + rank
    for _ in range(2):
        ddp.train()
        compiled(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ddp.eval()
        with torch.no_grad():
            assert relative(compiled(x), model(x)) < 1e-5
            model.first_norm.bias.add_(1)
            assert relative(compiled(x), model(x)) < 1e-5
    evaluated = [report for report in reports if report.count("folded")]
    assert sum(report.count("folded") for report in evaluated) == 2
    assert len(reports) > 2, "the splitter was to cut the graph"
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), *sys.argv[2:])
