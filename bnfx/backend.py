"""The ``torch.compile`` backend ``"bnfx"``.

It looks at the graph that Dynamo captured, synchronises what is in training under a process group,
folds what can be folded, and hands the graph to the inner compiler. Nothing is folded in a graph
for which gradients are needed; one with nothing to do goes to the inner compiler as it came.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx
from torch._dynamo.exc import RestartAnalysis, ShortenTraceback

from bnfx.errors import NotYetError, OptionError, SyncError
from bnfx.inner import Inner, resolve
from bnfx.options import Options, parse_rules
from bnfx.passes.fx.dynamo import GraphInputs, without_gradients
from bnfx.passes.fx.rewrite import RewriteWarning, Rewritten, is_meta, rewrite_captured, survey
from bnfx.passes.fx.synchronise import Swapped
from bnfx.passes.refusals import Code, Refusal
from bnfx.report import Report
from bnfx.report.output import deliver
from bnfx.sync.empty import for_batch
from bnfx.sync.graph import synchronised
from bnfx.verify import disagreement
from bnfx.weights.function import FoldedFunction


class _CompileTimeOptionError(OptionError, ShortenTraceback):
    """An option error that Dynamo lets through as it is, rather than wrapped in its own."""

    def __init__(self, message: str) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)


class _CompileTimeNotYetError(NotYetError, _CompileTimeOptionError):
    pass


class _CompileTimeSyncError(SyncError, ShortenTraceback):
    def __init__(self, message: str) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)


# They are what the user knows as bnfx.OptionError and so on, so print them as such.
for _error, _known in (
    (_CompileTimeOptionError, OptionError),
    (_CompileTimeNotYetError, NotYetError),
    (_CompileTimeSyncError, SyncError),
):
    _error.__name__ = _error.__qualname__ = _known.__name__
    _error.__module__ = _known.__module__


def bnfx(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Fold the BatchNorms of a captured graph and compile the rest with the inner compiler.

    Found by ``torch.compile(model, backend="bnfx")`` through its entry point.

    Args:
        module: what Dynamo captured; left untouched.
        example_inputs: its inputs; parameters are the real tensors.
        mode: as of ``torch.compile``; for the inner compiler Inductor.
        options: see :class:`bnfx.options.Options`.

    Raises:
        OptionError: for an unknown option or value.
        SyncError: if ``sync="require"`` cannot be met.
    """
    try:
        chosen = Options.parse(options)
        inner = resolve(chosen, mode)
        swapped = synchronised(module, chosen)
    except NotYetError as error:
        raise _CompileTimeNotYetError(str(error)) from None
    except OptionError as error:
        raise _CompileTimeOptionError(str(error)) from None
    except SyncError as error:
        raise _CompileTimeSyncError(str(error)) from None
    module, inner = swapped.module, for_batch(inner, swapped, example_inputs)

    inputs = GraphInputs.of(module, example_inputs)
    refusal = None
    if not without_gradients(module, example_inputs):
        refusal = Refusal(Code.GRADIENTS_NEEDED, "the graph was compiled with gradients enabled")
    elif any(map(is_meta, inputs.parameters.values())):
        refusal = Refusal(Code.UNSUPPORTED_DTYPE, "its parameters are on the meta device")
    if refusal is not None:
        compiled = inner.compile(module, example_inputs)
        report = swapped.annotate(survey(module, inputs.parameters, refusal))
        deliver(Report((report,)), chosen.report)
        return compiled
    return _compile_folded(swapped, example_inputs, inputs, inner, chosen)


def _compile_folded(
    swapped: Swapped,
    example_inputs: Sequence[Any],
    inputs: GraphInputs,
    inner: Inner,
    options: Options,
) -> Callable[..., Any]:
    module, rules = swapped.module, parse_rules(options.rules)

    rewritten = rewrite_captured(module, inputs, rules)

    def fold(inputs: GraphInputs) -> Rewritten:
        return rewrite_captured(module, inputs, rules, signs=False)

    report, slots = rewritten.report, rewritten.slots
    if slots and options.verify:
        problem = disagreement(module, rewritten, example_inputs, options.verify)
        if problem:
            warnings.warn(problem, RewriteWarning, stacklevel=2)
            report = survey(module, inputs.parameters, Refusal(Code.INTERNAL_ERROR, problem))
            slots = ()
    compiled: Callable[..., Any] | None = None
    if slots:
        compiled = folded = FoldedFunction(module, inputs, rewritten, fold, inner)
        try:
            form, why = folded.compile(example_inputs, rewritten.evaluate(), options.weights)
            report = replace(report, weights=form, weights_reason=why)
        except RestartAnalysis:
            raise  # Dynamo traces once more, with what the compiler learnt, and comes back
        except Exception as error:
            problem = f"bnfx: the folded graph did not compile, the original is used: {error!r}"
            warnings.warn(problem, RewriteWarning, stacklevel=2)
            report = survey(module, inputs.parameters, Refusal(Code.INTERNAL_ERROR, problem))
            compiled = None
    if compiled is None:
        compiled = inner.compile(module, example_inputs)
    # Once it is true: a compiler may start over.
    deliver(Report((swapped.annotate(report),)), options.report)
    return compiled
