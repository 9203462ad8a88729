"""Ask why BatchNorms were not folded, and act on the answer."""

import torch
from torch import nn

import bnfx


class Block(nn.Module):
    """A BatchNorm after a linear layer on a sequence, and one after an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(16, 32), nn.BatchNorm1d(32)
        self.late = nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # BatchNorm1d takes axis 1 of (N, L, C) for channels: L, not C.
        x = self.norm(self.linear(x))
        return self.late(x.relu())


report = bnfx.explain(Block().eval(), torch.randn(8, 32, 16))
print(report)

for verdict in report.verdicts:
    for refusal in verdict.refusals:
        print(verdict.site.name, "->", refusal.code.value)

assert report.count("lowered") == 2
