"""One process of two: compiles a net with packed weights, writes to them, and prints what it saw.

``python warm_worker.py SEED``; the folder of Inductor's caches is in the environment.
"""

from __future__ import annotations

import json
import sys

import torch
from support import randomise, relative
from torch import nn
from torch._dynamo.utils import counters


class Net(nn.Module):
    """Packed convolutions, one of them used twice, and what is not packed beside them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.shared = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("order", torch.randperm(8))
        self.head = nn.Linear(8, 5)
        randomise(self, seed).eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.stem(x)
        y = self.norm(self.shared(y)) + self.shared(y)
        y = y[:, self.order] * torch.tensor([[[0.5]], [[2.0]]]).repeat(4, 1, 1)
        return self.head(y.mean((2, 3))), y, x


def main() -> None:
    seed = int(sys.argv[1])
    model, x = Net(seed), torch.randn(2, 3, 12, 12)
    reports = []
    options = {"weights": "live", "report": reports.append}
    compiled = torch.compile(model, backend="bnfx", options=options)

    def error() -> float:
        return max(map(relative, compiled(x), model(x)))

    errors = {}
    with torch.no_grad():
        errors["first call"] = error()
        model.stem[1].running_var.mul_(1.7)
        errors["statistic"] = error()
        model.shared.weight.data[3] = -model.shared.weight.data[3]
        errors["unmarked write"] = error()
        model.head.weight.mul_(-1)
        model.order.copy_(torch.arange(8))
        errors["what is not folded"] = error()
        model.load_state_dict(Net(seed + 7).state_dict())
        errors["checkpoint"] = error()
        model.stem[0].weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        errors["another parameter"] = error()
        model.stem[1].running_mean.fill_(float("nan"))
        nan = compiled(x)[0].isnan().all().item()
        model.load_state_dict(Net(seed).state_dict())
        errors["mended"] = error()
    of_aot = counters["aot_autograd"]
    found = {
        "form": reports[0].graphs[0].weights_reason,
        "hits": of_aot["autograd_cache_hit"],
        "misses": of_aot["autograd_cache_miss"] + of_aot["autograd_cache_bypass"],
        "nan": nan,
        "errors": errors,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
