"""Measures one model: what became of its BatchNorms, whether the answer is right, and its speed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfx.backend import bnfx
from bnfx.folding.verify import relative_error
from bnfx.passes.report import Outcome
from bnfx.report import Report

MAX_ERROR = 1e-4  # relative, float32: rounding, and another order of summation
MAX_ERROR_FLOAT64 = 1e-10  # relative: leaves no room for anything but rounding
# Share of the answer that must change when the picture is mirrored; below that, the model hardly
# looks at it, and a right answer proves nothing.
MIN_SENSITIVITY = 1e-3

STEPS = (
    "running eagerly",
    "compiling with Inductor",
    "compiling with bnfx",
    "checking in float64",
    "timing",
)
_WARMUPS = 3

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
        error: largest ``max|bnfx - eager| / max|eager|`` over the outputs, in float32.
        error_float64: the same in float64, of the folded graph run eagerly.
        eager_ms, inductor_ms, bnfx_ms: median milliseconds a call.
        problems: what is wrong with the answer, a sentence each; empty if it is right.
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
class _Calls:
    """How often a graph calls BatchNorm, and ``torch.mul`` (how bnfx writes a multiply-add)."""

    batch_norms: int
    multiplies: int

    @staticmethod
    def of(graph: fx.Graph) -> _Calls:
        targets = [node.target for node in graph.nodes if node.op == "call_function"]
        named = sum("batch_norm" in getattr(target, "__name__", "") for target in targets)
        return _Calls(named, targets.count(torch.mul))


def measure(
    name: str,
    model: nn.Module,
    image: torch.Tensor,
    *,
    repeats: int,
    inner: str | Callable[..., Any] = "inductor",
    tell: Callable[[str], None] = lambda step: None,
) -> DemoRow:
    """Compile ``model`` with the inner compiler alone and with bnfx, and compare with eager.

    Args:
        name: what the row calls it.
        model: in evaluation mode, float32; must be captured as one graph.
        image: its input.
        repeats: timed calls each.
        inner: the compiler, a backend's name or a callable ``(gm, example_inputs) -> callable``.
        tell: is told each of :data:`STEPS` as it begins.
    """
    torch._dynamo.reset()  # the models before, and their compiled code, are done with
    steps = iter(STEPS)
    with torch.no_grad():
        tell(next(steps))
        expected = model(image)
        sensitivity = relative_error(model(image.flip(-1)), expected)
        tell(next(steps))
        alone = torch.compile(model, backend=inner, fullgraph=True)
        alone(image)
        tell(next(steps))
        reports: list[Report] = []
        options: dict[str, Any] = {"inner": inner, "report": reports.append}
        folded = torch.compile(model, backend="bnfx", fullgraph=True, options=options)
        actual = folded(image)
        report = reports[-1]  # Dynamo may start over: the last capture is the one that counts
        tell(next(steps))
        error64, before, after = _check_float64(model, image)
        tell(next(steps))
        eager_ms, inductor_ms, bnfx_ms = interleaved_ms((model, alone, folded), image, repeats)

    error = relative_error(actual, expected)
    problems = [
        *_wrong_answers(actual, error, error64, sensitivity),
        *_wrong_counts(report, before, after),
    ]
    return DemoRow(
        model=name,
        batch_norms=before.batch_norms,
        folded=report.count(Outcome.FOLDED) + report.count(Outcome.MERGED),
        multiply_add=report.count(Outcome.LOWERED),
        kept=report.count(Outcome.KEPT),
        error=error,
        error_float64=error64,
        eager_ms=eager_ms,
        inductor_ms=inductor_ms,
        bnfx_ms=bnfx_ms,
        problems=tuple(problems),
    )


def interleaved_ms(models: Sequence[Model], image: torch.Tensor, repeats: int) -> list[float]:
    """Median milliseconds a call of each model, called in turn so that noise hits all alike.

    Compiling is not part of it, so neither is the state of Inductor's cache.
    """
    times: list[list[float]] = [[] for _ in models]
    for turn in range(_WARMUPS + repeats):
        for model, own in zip(models, times, strict=True):
            start = time.perf_counter()
            model(image)
            if turn >= _WARMUPS:
                own.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(own) for own in times]


def _check_float64(model: nn.Module, image: torch.Tensor) -> tuple[float, _Calls, _Calls]:
    """Error of the folded graph in float64, and the calls of the graph before and after folding.

    Run by no compiler: what differs, differs by folding. The calls are counted in what Dynamo
    captured and in what the inner compiler is given, whatever bnfx reports.
    """
    calls: list[_Calls] = []

    def inner(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Model:
        calls.append(_Calls.of(graph.graph))
        return graph.forward

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Model:
        calls[:] = [_Calls.of(graph.graph)]
        return bnfx(graph, example_inputs, options={"inner": inner})

    wide, wide_image = copy.deepcopy(model).double(), image.double()
    actual = torch.compile(wide, backend=backend, fullgraph=True)(wide_image)
    before, after = calls
    return relative_error(actual, wide(wide_image)), before, after


def _wrong_answers(actual: Any, error: float, error64: float, sensitivity: float) -> list[str]:
    problems = []
    outputs = [leaf for leaf in pytree.tree_leaves(actual) if isinstance(leaf, torch.Tensor)]
    if not all(torch.isfinite(output).all() for output in outputs):
        problems.append("the answer is not finite")
    if not error <= MAX_ERROR:
        problems.append(f"the float32 error {error:.1e} is above {MAX_ERROR:.0e}")
    if not error64 <= MAX_ERROR_FLOAT64:
        problems.append(f"the float64 error {error64:.1e} is above {MAX_ERROR_FLOAT64:.0e}")
    if not sensitivity >= MIN_SENSITIVITY:
        problems.append(f"the answer hardly depends on the picture ({sensitivity:.1e})")
    return problems


def _wrong_counts(report: Report, before: _Calls, after: _Calls) -> list[str]:
    """Where the report disagrees with the graphs themselves."""
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
