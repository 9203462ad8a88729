"""Measures one model: what became of its BatchNorms, whether the answer is right, and its speed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnfx.backend import bnfx
from bnfx.bench.on_models.bench_worker import Job, Subject
from bnfx.bench.on_models.model_race import Row, race
from bnfx.folding.verify import relative_error
from bnfx.passes.report import Outcome
from bnfx.report import Report

MAX_ERROR = 1e-4  # relative, float32: rounding, and another order of summation
MAX_ERROR_FLOAT64 = 1e-10  # relative: leaves no room for anything but rounding
# Share of the answer that must change when the picture is mirrored; below that, the model hardly
# looks at it, and a right answer proves nothing.
MIN_SENSITIVITY = 1e-3

WAYS = ("eager", "inductor", "bnfx")
STEPS = 2 + len(WAYS)  # checking, the first call of each way, timing
_CALLS = 5  # of each way in a round

Model = Callable[..., Any]


@dataclass(frozen=True)
class DemoRow:
    """What was measured of one model.

    Args:
        model: its name.
        batch_norms: BatchNorm calls in the graph that Dynamo captured.
        folded: of these, gone: folded into a weight, or merged with another one.
        multiply_add: of these, left as one multiply-add.
        kept: of these, left as they were.
        error: largest ``max|bnfx - model| / max|model|`` over the outputs: bnfx in float32, the
            model in float64.
        error_float64: the same, both in float64, of the folded graph run eagerly.
        eager_ms, inductor_ms, bnfx_ms: median milliseconds a call; ``nan`` if it failed.
        problems: what is wrong, a sentence each; empty if all is right.
    """

    model: str
    batch_norms: int
    folded: int
    multiply_add: int
    kept: int
    error: float
    error_float64: float
    eager_ms: float
    inductor_ms: float
    bnfx_ms: float
    problems: tuple[str, ...] = ()

    @property
    def over_inductor(self) -> float:
        """How many times as fast as Inductor alone."""
        return self.inductor_ms / self.bnfx_ms

    @property
    def over_eager(self) -> float:
        """How many times as fast as eager."""
        return self.eager_ms / self.bnfx_ms


@dataclass(frozen=True)
class Calls:
    """How often a graph calls BatchNorm, and ``torch.mul`` (how bnfx writes a multiply-add)."""

    batch_norms: int
    multiplies: int

    @staticmethod
    def of(graph: fx.Graph) -> Calls:
        """Those of a captured graph."""
        targets = [node.target for node in graph.nodes if node.op == "call_function"]
        named = sum("batch_norm" in getattr(target, "__name__", "") for target in targets)
        return Calls(named, targets.count(torch.mul))


@dataclass(frozen=True)
class Folded:
    """What folding made of a model, run by no compiler: what differs, differs by folding.

    Args:
        error: of the folded graph's answer.
        report: what bnfx says of it.
        before, after: calls that were counted in what Dynamo captured, and in what the inner
            compiler was given, whatever bnfx reports.
    """

    error: float
    report: Report
    before: Calls
    after: Calls

    @staticmethod
    def of(model: nn.Module, image: torch.Tensor) -> Folded:
        """Capture ``model`` as one graph, fold it, and compare."""
        torch._dynamo.reset()
        calls: list[Calls] = []
        reports: list[Report] = []

        def inner(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Model:
            calls.append(Calls.of(graph.graph))
            return graph.forward

        def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Model:
            calls[:] = [Calls.of(graph.graph)]
            return bnfx(graph, example_inputs, options={"inner": inner, "report": reports.append})

        with torch.no_grad():
            actual = torch.compile(model, backend=backend, fullgraph=True)(image)
            error = relative_error(actual, model(image))
        before, after = calls
        return Folded(error, reports[-1], before, after)  # Dynamo may have started over


def measure(
    case: Subject, *, repeats: int, tell: Callable[[str], None] = lambda step: None
) -> DemoRow:
    """Fold a model, compare its answers, and time it as ``bnfx bench`` does.

    Args:
        case: the model, and the picture; it must be captured as one graph.
        repeats: timed calls each.
        tell: is told each of :data:`STEPS` as it begins.
    """
    tell("checking")
    model, (image,) = case.load()
    folded = Folded.of(model, image)
    wide, wide_image = copy.deepcopy(model).double(), image.double()
    error64 = Folded.of(wide, wide_image).error
    with torch.no_grad():
        sensitivity = relative_error(wide(wide_image.flip(-1)), wide(wide_image))
    del model, wide
    calls = min(_CALLS, repeats)
    jobs = [Job(way, case) for way in WAYS]
    found = race(jobs, math.ceil(repeats / calls), (), tell, calls)
    return row_of(case.name, folded, error64, sensitivity, found.rows)


def row_of(
    name: str, folded: Folded, error64: float, sensitivity: float, rows: Sequence[Row]
) -> DemoRow:
    """One model's row, with what is wrong.

    Args:
        name: what the row calls it.
        folded: what folding made of it.
        error64: of the folded graph in float64.
        sensitivity: how much of the answer changes when the picture is mirrored.
        rows: what was timed, one of each of :data:`WAYS`.
    """
    eager, inductor, ours = rows
    problems = [
        *_failures(rows),
        *_wrong_answers(ours, error64, sensitivity),
        *_wrong_counts(folded),
    ]
    report = folded.report
    return DemoRow(
        model=name,
        batch_norms=folded.before.batch_norms,
        folded=report.count(Outcome.FOLDED) + report.count(Outcome.MERGED),
        multiply_add=report.count(Outcome.LOWERED),
        kept=report.count(Outcome.KEPT),
        error=ours.error,
        error_float64=error64,
        eager_ms=eager.ms,
        inductor_ms=inductor.ms,
        bnfx_ms=ours.ms,
        problems=tuple(problems),
    )


def _failures(rows: Sequence[Row]) -> list[str]:
    return [f"{row.way} failed: {row.note}" for row in rows if math.isnan(row.ms)]


def _wrong_answers(ours: Row, error64: float, sensitivity: float) -> list[str]:
    problems = []
    if not math.isnan(ours.ms) and not ours.error <= MAX_ERROR:
        problems.append(f"the float32 error {ours.error:.1e} is above {MAX_ERROR:.0e}")
    if not error64 <= MAX_ERROR_FLOAT64:
        problems.append(f"the float64 error {error64:.1e} is above {MAX_ERROR_FLOAT64:.0e}")
    if not sensitivity >= MIN_SENSITIVITY:
        problems.append(f"the answer hardly depends on the picture ({sensitivity:.1e})")
    return problems


def _wrong_counts(folded: Folded) -> list[str]:
    """Where the report disagrees with the graphs themselves."""
    report, before, after = folded.report, folded.before, folded.after
    lowered, kept = report.count(Outcome.LOWERED), report.count(Outcome.KEPT)
    compared = (
        ("BatchNorms", len(report.verdicts), before.batch_norms),
        ("multiply-adds", lowered, after.multiplies - before.multiplies),
        ("kept BatchNorms", kept, after.batch_norms),
    )
    return [
        f"the report says {said} {what}, the graph has {found}"
        for what, said, found in compared
        if said != found
    ]
