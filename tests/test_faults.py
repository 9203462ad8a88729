"""Whatever breaks inside of bnfx, the answer is the model's, and a warning says what broke."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn

import bnfx
from bnfx.passes.rules.rule import Rule

# Where a fault is injected: module, and what of it raises. Each step from captured graph to report.
FAULTS = {
    "reading inputs": ("bnfx.passes.fx.dynamo", "GraphInputs.of"),
    "lift": ("bnfx.passes.fx.bodies.nest", "lift"),
    "values": ("bnfx.passes.fx.rewrite", "make_values"),
    "a rule's pattern": ("bnfx.passes.rules.fold_affine_into_linear", "RULE.match"),
    "a rule's guard": ("bnfx.passes.rules.fold_affine_into_linear", "RULE.refuse"),
    "a rule": ("bnfx.passes.rules.fold_affine_into_linear", "RULE.rewrite"),
    "the check of a graph": ("bnfx.passes.graph", "Graph.verify"),
    "the ledger": ("bnfx.passes.pipeline", "_Ledger.report"),
    "lowering": ("bnfx.passes.fx.rewrite", "lower_nest"),
    "the recipe": ("bnfx.passes.fx.rewrite", "Recipe.of"),
    "evaluation": ("bnfx.passes.fx.rewrite", "Rewritten.evaluate"),
    "stored values": ("bnfx.passes.values", "Values.stored"),
    "the folded function": ("bnfx.weights.function", "FoldedFunction.__init__"),
    "its compilation": ("bnfx.weights.function", "FoldedFunction.compile"),
    "the survey": ("bnfx.backend", "survey"),
    "the report's notes": ("bnfx.passes.fx.training.synchronise", "Swapped.annotate"),
}
DELIVERY = {
    "the table": ("bnfx.report", "render"),
    "the report": ("bnfx.report.output", "_add_to_file"),
    "its merging": ("bnfx.report.output", "render_for"),
}


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("injected")


@contextlib.contextmanager
def injected(where: tuple[str, str]) -> Iterator[None]:
    """While it lasts, what ``where`` names raises."""
    module, name = where
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for step in outer:
        owner = getattr(owner, step)
    set_, old = (object.__setattr__ if isinstance(owner, Rule) else setattr), vars(owner)[last]
    set_(owner, last, broken)
    try:
        yield
    finally:
        set_(owner, last, old)


def net() -> nn.Module:
    return randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()


X = torch.randn(2, 3, 6, 6)
FOLDS: dict[str, Callable[[nn.Module], Any]] = {
    "graph": lambda model: bnfx.fold(model, X, keep="graph"),
    "program": lambda model: bnfx.fold(torch.export.export(model, (X,))).module(),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("weights", ["auto", "traced"])
def test_compiled(fault: str, weights: str) -> None:
    torch._dynamo.reset()
    model = net()
    expected = model(X)
    options = {"inner": "eager", "weights": weights}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with (
        torch.no_grad(),
        injected(FAULTS[fault]),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        actual = compiled(X)
    assert relative(actual, expected) < 1e-5
    told = [w for w in caught if issubclass(w.category, bnfx.RewriteWarning)]
    if told:
        assert "injected" in str(told[0].message)
        assert told[0].filename == __file__, "the warning points at the user's line"
    else:  # it folded without what is broken
        assert fault in SPARED[weights]


# What one way of folding has no use for.
SPARED = {
    "auto": {"the survey", "evaluation"},  # a state evaluates through its recipe
    "traced": {
        *("the survey", "the recipe", "evaluation", "stored values", "values"),
        *("the folded function", "its compilation"),
    },
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("fault", [*FAULTS][1:12])
@pytest.mark.parametrize("way", FOLDS)
def test_folded(fault: str, way: str) -> None:
    model = net()
    expected = model(X)
    with injected(FAULTS[fault]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folded = FOLDS[way](model)
    assert relative(folded(X), expected) < 1e-5
    told = [w for w in caught if issubclass(w.category, bnfx.RewriteWarning)]
    assert "injected" in str(told[0].message)
    assert told[0].filename == __file__


@pytest.mark.parametrize("fault", DELIVERY)
def test_a_report_that_cannot_be_made(fault: str, tmp_path: Path) -> None:
    with injected(DELIVERY[fault]):
        deliver_to(tmp_path / "report.txt")


def deliver_to(report: Any) -> None:
    torch._dynamo.reset()
    model = net()
    options = {"inner": "eager", "report": report}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with torch.no_grad(), pytest.warns(bnfx.ReportWarning, match="report could not") as caught:
        actual = compiled(X)
    assert relative(actual, model(X)) < 1e-5
    assert caught[0].filename == __file__


def test_a_report_that_cannot_be_delivered(tmp_path: Path) -> None:
    """The call goes on: folded, with a warning."""
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "round.txt").symlink_to("round.txt")
    for path in ("folder.txt", "round.txt"):
        deliver_to(tmp_path / path)
    deliver_to(Path("/proc/report.txt"))
    deliver_to(broken)


@pytest.mark.slow
def test_reports_in_files_do_not_pile_up(tmp_path: Path) -> None:
    """Of many files, and of many graphs for one, the latest are remembered."""
    from bnfx.passes.report import GraphReport
    from bnfx.report import output

    report = bnfx.Report((GraphReport(()),))
    for number in range(100):
        output.deliver(report, tmp_path / f"{number}.json")
    for _ in range(300):
        output.deliver(report, tmp_path / "many.json")
    assert len(output._files) <= 16
    assert (tmp_path / "many.json").stat().st_size < 100_000


def test_warnings_point_at_the_caller() -> None:
    """Through frames of ours, of torch and of contextlib."""
    from bnfx.passes.user_warnings import warn

    namespace = {"__name__": "torch.somewhere", "warn": warn, "Told": bnfx.FoldWarning}
    exec("def deep(n):\n    deep(n - 1) if n else warn('here', Told)\n", namespace)
    with pytest.warns(bnfx.FoldWarning) as caught:
        namespace["deep"](7)  # type: ignore[operator]
    assert caught[0].filename == __file__
