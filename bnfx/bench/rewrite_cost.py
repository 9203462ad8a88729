"""What the rewrite itself costs: everything that bnfx does before the inner compiler starts.

Run as ``python -m bnfx.bench.rewrite_cost``. Each graph is measured inside a ``torch.compile``
backend, as bnfx meets it. Prints the nodes of the graph, the milliseconds of each stage, and
microseconds a node, which stay level as graphs grow if the rewrite is linear. Folding weights is
arithmetic over all of them, in float64, so it is shown a million parameters. Last, the whole as a
share of what Inductor takes to compile the folded graph of the largest model. All times are those
of CPUs, which other work on the machine hardly changes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from rich import box
from rich.console import Console
from rich.table import Table
from torch import fx, nn

from bnfx.bench.on_models.first_call import cpu_seconds
from bnfx.bench.on_models.image import image
from bnfx.passes import pipeline
from bnfx.passes.fx import Rewritten
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.lift import lift
from bnfx.passes.fx.lowering.lower import lower
from bnfx.passes.fx.rewrite import make_values, rewrite_captured

MODELS = ("resnet18", "resnet50", "resnet152")
REPEATS = 7


@dataclass(frozen=True)
class RewriteCost:
    """Median milliseconds of CPU time for one graph.

    Args:
        model: its name.
        nodes: of the graph that Dynamo captured.
        parameters: elements of all its parameters and buffers.
        lift: the fx graph becomes the neutral graph.
        rules_bare: the rules, without numbers: matching, guards, algebra on symbols.
        rules: the rules with numbers: the folded weights are computed, to refuse what overflows.
        lower: the neutral graph becomes an fx graph.
        whole: ``rewrite`` and ``evaluate``, as the backend calls them for nobody's report; measured
            on its own.
        inductor: what Inductor takes to compile the folded graph, or ``None`` if not measured.
    """

    model: str
    nodes: int
    parameters: int
    lift: float
    rules_bare: float
    rules: float
    lower: float
    whole: float
    inductor: float | None = None

    @property
    def symbolic(self) -> float:
        """Milliseconds that are spent on the graph, not on numbers."""
        return self.lift + self.rules_bare + self.lower


def measure(name: str, with_inductor: bool = False) -> RewriteCost:
    """The cost of rewriting torchvision's model ``name``, batch 1, 224x224."""
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    costs: list[RewriteCost] = []

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        costs.append(_measure(name, graph, example_inputs, with_inductor))
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(image())
    return costs[-1]


def _measure(
    name: str, graph: fx.GraphModule, example_inputs: Sequence[Any], with_inductor: bool
) -> RewriteCost:
    inputs = GraphInputs.of(graph, example_inputs)

    def whole() -> Rewritten:
        inputs = GraphInputs.of(graph, example_inputs)
        rewritten = rewrite_captured(graph, inputs, measured=False)
        rewritten.evaluate()
        return rewritten

    def stages() -> tuple[float, float, float]:
        start = time.process_time()
        lifted = lift(graph, inputs.parameters, inputs.scalars, inputs.others)
        lifting = time.process_time()
        pipeline.run(lifted.graph, values=make_values(lifted.tensors, measured=False))
        running = time.process_time()
        lower(graph, lifted, "placeholders")
        end = time.process_time()
        return lifting - start, running - lifting, end - running

    def bare() -> float:
        lifted = lift(graph, inputs.parameters, inputs.scalars, inputs.others)
        start = time.process_time()
        pipeline.run(lifted.graph)
        return time.process_time() - start

    whole()  # warms up caches and allocators
    wholes = [_seconds(whole) for _ in range(REPEATS)]
    lifts, runs, lowers = zip(*(stages() for _ in range(REPEATS)), strict=True)
    return RewriteCost(
        model=name,
        nodes=len(graph.graph.nodes),
        parameters=sum(tensor.numel() for tensor in inputs.parameters.values()),
        lift=_median_ms(lifts),
        rules_bare=_median_ms([bare() for _ in range(REPEATS)]),
        rules=_median_ms(runs),
        lower=_median_ms(lowers),
        whole=_median_ms(wholes),
        inductor=_inductor_ms(graph, example_inputs) if with_inductor else None,
    )


def _inductor_ms(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> float:
    """What Inductor's default mode takes for the folded graph, its caches on disk disabled."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    from bnfx.backend import bnfx

    took: list[float] = []

    def inner(folded: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        start = cpu_seconds()
        compiled: Any = compile_fx(folded, list(inputs))
        took.append((cpu_seconds() - start) * 1e3)
        return compiled

    with config.patch(fx_graph_cache=False, force_disable_caches=True, compile_threads=1):
        bnfx(graph, example_inputs, options={"inner": inner})
    return took[-1]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def _table(costs: Sequence[RewriteCost]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for heading in (
        "nodes",
        "million\nparameters",
        "lift\nms",
        "rules\nms",
        "lower\nms",
        "these\nus/node",
        "rules with\nnumbers, ms",
        "numbers\nms/million",
        "whole\nms",
    ):
        table.add_column(heading, justify="right")
    for cost in costs:
        numbers = cost.rules - cost.rules_bare
        table.add_row(
            cost.model,
            str(cost.nodes),
            f"{cost.parameters / 1e6:.1f}",
            *(f"{ms:.1f}" for ms in (cost.lift, cost.rules_bare, cost.lower)),
            f"{cost.symbolic * 1e3 / cost.nodes:.0f}",
            f"{cost.rules:.1f}",
            f"{numbers / (cost.parameters / 1e6):.1f}",
            f"{cost.whole:.1f}",
        )
    return table


def main() -> None:
    measure(MODELS[0], with_inductor=True)  # Inductor's first compile pays for its imports
    costs = [measure(name, with_inductor=name == MODELS[-1]) for name in MODELS]
    console = Console(highlight=False, width=110)
    console.print(_table(costs))
    last = costs[-1]
    assert last.inductor is not None
    console.print(
        f"{last.model}: the rewrite takes {last.whole:.0f} ms, {last.whole / last.inductor:.1%} of "
        f"the {last.inductor / 1e3:.1f} s that Inductor takes for the folded graph.\n"
        f"Medians of {REPEATS}; {torch.get_num_threads()} threads; torch {torch.__version__}; "
        "Inductor once, default mode, caches disabled.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
