"""Why was this BatchNorm not folded, and what helps?"""

from __future__ import annotations

import torch
from torch import nn

import bnfx


class Block(nn.Module):
    """Its BatchNorm stands behind a ReLU, and one was built without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.behind_relu = nn.BatchNorm2d(8)
        self.next = nn.Conv2d(8, 8, 3, padding=1)
        self.without = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.behind_relu(torch.relu(self.conv(x)))
        return self.without(self.next(y))


model = Block()
model(torch.randn(4, 3, 16, 16))
report = bnfx.explain(model.eval(), torch.randn(1, 3, 16, 16))
print(report, end="\n\n")

for verdict in report.verdicts:
    codes = [refusal.code.value for refusal in verdict.refusals]
    print(f"{verdict.site.name}: {verdict.outcome.value} {verdict.target} {codes}")
by_name = {verdict.site.name: verdict for verdict in report.verdicts}
assert by_name["behind_relu"].target == "next", "it folds forward, into the next convolution"
assert by_name["without"].outcome.value == "kept"
