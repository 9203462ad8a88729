"""Folded weights that the graph computes at each call, so that gradients reach the parameters.

For fine-tuning with BatchNorms in evaluation. What is folded may not depend on numbers, which the
next step of an optimizer changes: no route by signs, nothing stored in float16. And it is computed
at every call, so rules that multiply weight matrices are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from bnfx.inner.base import Compiled, Inner
from bnfx.passes.fx.dynamo import GraphInputs, describe_tables
from bnfx.passes.fx.rewrite import Rewritten, rewrite_traced
from bnfx.passes.report import Outcome
from bnfx.passes.rules.rule import Rule
from bnfx.weights.arguments import Arguments

_TOO_DEAR = frozenset({"merge-serial-linear", "merge-parallel-linear"})


def trace(
    module: fx.GraphModule, inputs: GraphInputs, rules: Sequence[Rule], measured: bool
) -> Rewritten | None:
    """``module`` with the fold in it; ``None`` if no BatchNorm folds."""
    cheap = [rule for rule in rules if rule.name not in _TOO_DEAR]
    rewritten = rewrite_traced(module, inputs, cheap, measured)
    outcomes = (Outcome.FOLDED, Outcome.MERGED, Outcome.LOWERED)
    worth = any(rewritten.report.count(outcome) for outcome in outcomes)
    return rewritten if rewritten.slots and worth else None


def compile_traced(
    original: fx.GraphModule,
    inputs: GraphInputs,
    rewritten: Rewritten,
    example_inputs: Sequence[Any],
    inner: Inner,
) -> Compiled:
    """Compile what :func:`trace` gave for ``original``."""
    tables = rewritten.tables
    assert tables is not None
    describe_tables(rewritten.module, tables, example_inputs)
    compiled = inner.compile(rewritten.module, [*example_inputs, *tables])
    arguments = Arguments.of(original, inputs)
    if not tables and not arguments.written:
        return compiled
    call: Callable[..., Any] = compiled
    parameters = tuple(arguments.parameters.values())

    def run(*args: Any) -> Any:
        if arguments.writes_to(args, parameters):  # which are read ahead of the write
            return original.forward(*args)
        return call(*args, *tables)

    return run
