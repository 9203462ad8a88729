"""What deep graphs cost: milliseconds a level, which stay the same where the rewrite is linear.

Run as ``python -m bnfx.bench.depth``; other levels than 10, 100, 1,000 and 5,000 may be given as
arguments. Each graph is rewritten as ``bnfx.fold`` does it, stage by stage: lifted, run through the
rules with numbers, lowered, and its new weights computed. That every map is folded is asserted.
Capturing the graph and its shapes is torch's work and not counted.

Times are the processor's, not the clock's: what else the machine does changes them little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from bnfx.folding.capturing.symbolic import trace
from bnfx.passes import pipeline
from bnfx.passes.fx.lift import lift
from bnfx.passes.fx.lowering.lower import lower
from bnfx.passes.fx.rewrite import make_values
from bnfx.passes.report import Outcome

LEVELS = (10, 100, 1_000, 5_000)
CHANNELS = 4


class Dropouts(nn.Module):
    """A convolution, ``levels`` dropouts, a BatchNorm."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.dropouts = nn.ModuleList(nn.Dropout() for _ in range(levels))
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for dropout in self.dropouts:
            x = dropout(x)
        y: torch.Tensor = self.norm(x)
        return y


class Halves(nn.Module):
    """A BatchNorm, ``levels`` times the halves of two max pools side by side, a convolution."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        half = CHANNELS // 2
        for _ in range(self.levels):
            one, other = (F.max_pool2d(x, 3, 1, 1) for _ in range(2))
            x = torch.cat([one[:, :half], other[:, half:]], 1)
        y: torch.Tensor = self.conv(x)
        return y


class Sums(nn.Module):
    """A scale, ``levels`` times ``x + avg_pool(x)``, a convolution."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.scale = nn.Parameter(torch.rand(1, CHANNELS, 1, 1))
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        for _ in range(self.levels):
            x = x + F.avg_pool2d(x, 3, 1, 1)
        y: torch.Tensor = self.conv(x)
        return y


class Maps(nn.Sequential):
    """A convolution and ``levels`` BatchNorms."""

    def __init__(self, levels: int) -> None:
        norms = (nn.BatchNorm2d(CHANNELS) for _ in range(levels))
        super().__init__(nn.Conv2d(CHANNELS, CHANNELS, 1), *norms)


KINDS: tuple[tuple[str, Callable[[int], nn.Module]], ...] = (
    ("dropouts", Dropouts),
    ("cat of pools and slices", Halves),
    ("x + avg_pool(x)", Sums),
    ("affine maps", Maps),
)


def traced(model: nn.Module) -> fx.GraphModule:
    """The model as a graph with shapes."""
    module = trace(model.eval())
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(
        torch.randn(2, CHANNELS, 6, 6)
    )
    return module


def stages(module: fx.GraphModule) -> list[float]:
    """Seconds to lift, to run the rules, to lower and to compute the new weights.

    Raises:
        AssertionError: if a map is left, since then less was measured than is said.
    """
    times = [time.process_time()]
    lifted = lift(module, {}, {}, {})
    times.append(time.process_time())
    values = make_values(lifted.tensors)
    assert values is not None, "the graph has weights"
    with torch.no_grad():
        report = pipeline.run(lifted.graph, values=values)
        times.append(time.process_time())
        lowered = lower(module, lifted, "attributes")
        times.append(time.process_time())
        for slot in lowered.slots:
            values.stored(slot.expression, slot.dtype)
    times.append(time.process_time())
    left = [verdict for verdict in report.verdicts if verdict.outcome is not Outcome.FOLDED]
    assert report.verdicts and not left, f"not folded: {left[:3]}"
    return [after - before for before, after in pairwise(times)]


def main(levels: tuple[int, ...] = LEVELS) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("graph")
    for heading in ("levels", "lift s", "rules s", "lower s", "weights s", "ms a level"):
        table.add_column(heading, justify="right")
    for name, kind in KINDS:
        stages(traced(kind(10)))  # warms up
        for count in levels:
            spent = stages(traced(kind(count)))
            seconds = (f"{each:.3f}" for each in spent)
            table.add_row(name, f"{count:,}", *seconds, f"{sum(spent) / count * 1e3:.2f}")
    Console(highlight=False, width=100).print(table)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or LEVELS)
