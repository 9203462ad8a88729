"""The ``torch.compile`` backend ``"bnfx"``.

It looks at the graph that Dynamo captured, synchronises what is in training under a process group,
folds what can be folded, and hands the graph to the inner compiler. Where gradients are needed the
fold is part of the graph; one with nothing to do goes to the inner compiler as it came.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx
from torch._dynamo.exc import RestartAnalysis, ShortenTraceback

from bnfx.errors import NotYetError, OptionError, SyncError
from bnfx.folding.verify import disagreement
from bnfx.inner.base import Inner
from bnfx.inner.resolve import resolve
from bnfx.options import Options, parse_rules
from bnfx.passes.fx.dynamo import GraphInputs, switches_gradients, without_gradients
from bnfx.passes.fx.rewrite import Rewritten, is_meta, rewrite_captured, survey
from bnfx.passes.fx.training.synchronise import Swapped
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, RewriteWarning
from bnfx.report import Report
from bnfx.report.output import deliver
from bnfx.sync.graphs.compiled_call import register_backend
from bnfx.sync.graphs.empty import for_batch
from bnfx.sync.graphs.graph_calls import synchronised
from bnfx.sync.graphs.outside import cover_batch_norms
from bnfx.sync.graphs.overlap import overlapping
from bnfx.sync.waiting import naming
from bnfx.weights.function import FoldedFunction
from bnfx.weights.traced import compile_traced, trace


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
    inner = overlapping(for_batch(inner, swapped, example_inputs), swapped)
    module = swapped.module

    inputs = GraphInputs.of(module, example_inputs)
    job = _Job(swapped, example_inputs, inputs, inner, chosen)
    if any(map(is_meta, inputs.parameters.values())):
        return job.leave(Refusal(Code.UNSUPPORTED_DTYPE, "its parameters are on the meta device"))
    if without_gradients(module, example_inputs):
        return job.trace("as asked") if chosen.weights == "traced" else job.fold()
    why = "the graph was compiled with gradients enabled"
    if chosen.weights not in ("auto", "traced"):
        why += f"; weights={chosen.weights!r} computes folded weights ahead of it"
        return job.leave(Refusal(Code.GRADIENTS_NEEDED, why))
    if switches_gradients(module):
        why += ", and switches them in its middle"
        return job.leave(Refusal(Code.GRADIENTS_NEEDED, why))
    return job.trace("gradients are needed")


# torch.compile imports this module, before the first step of what it compiles.
register_backend(bnfx)
cover_batch_norms()


@dataclass(frozen=True)
class _Job:
    """One captured graph to compile."""

    swapped: Swapped
    example_inputs: Sequence[Any]
    inputs: GraphInputs
    inner: Inner
    options: Options

    @property
    def module(self) -> fx.GraphModule:
        return self.swapped.module

    def leave(self, refusal: Refusal) -> Callable[..., Any]:
        """Compile it as it came."""
        return self._compile(survey(self.module, self.inputs.parameters, refusal), None)

    def fold(self) -> Callable[..., Any]:
        """Fold its weights ahead of time."""
        rules = parse_rules(self.options.rules)
        rewritten = rewrite_captured(self.module, self.inputs, rules)
        if not rewritten.slots:
            return self._compile(rewritten.report, None)

        def refold(inputs: GraphInputs) -> Rewritten:
            return rewrite_captured(module, inputs, rules, signs=False)

        module = self.module
        folded = FoldedFunction(module, self.inputs, rewritten, refold, self.inner)

        def compile_() -> tuple[Callable[..., Any], str, str]:
            weights = rewritten.evaluate()
            return folded, *folded.compile(self.example_inputs, weights, self.options.weights)

        return self._verified(rewritten, compile_)

    def trace(self, why: str) -> Callable[..., Any]:
        """Put the fold into it."""
        traced = trace(self.module, self.inputs, parse_rules(self.options.rules))
        if traced is None:
            return self.leave(Refusal(Code.GRADIENTS_NEEDED, "no BatchNorm folds in the graph"))

        def compile_() -> tuple[Callable[..., Any], str, str]:
            return compile_traced(traced, self.example_inputs, self.inner), "traced", why

        return self._verified(traced, compile_)

    def _verified(
        self, rewritten: Rewritten, compile_: Callable[[], tuple[Callable[..., Any], str, str]]
    ) -> Callable[..., Any]:
        """Compile the rewritten graph, if the answers agree; warn if they do not."""
        verify, problem = self.options.verify, None
        if verify:
            problem = disagreement(self.module, rewritten, self.example_inputs, verify)
        if problem is None:
            try:
                compiled, form, why = compile_()
            except RestartAnalysis:
                raise  # Dynamo traces once more, with what the compiler learnt, and comes back
            except Exception as error:
                problem = f"bnfx: the folded graph did not compile, the original is used: {error!r}"
        if problem is not None:
            warnings.warn(problem, RewriteWarning, stacklevel=2)
            return self.leave(Refusal(Code.INTERNAL_ERROR, problem))
        report = replace(rewritten.report, weights=form, weights_reason=why)
        return self._compile(report, compiled)

    def _compile(
        self, report: GraphReport, compiled: Callable[..., Any] | None
    ) -> Callable[..., Any]:
        """Compile the original if need be, and deliver the report."""
        if compiled is None:
            compiled = self.inner.compile(self.module, self.example_inputs)
        # Once it is true: a compiler may start over.
        deliver(Report((self.swapped.annotate(report),)), self.options.report)
        layers = [site.name for call in self.swapped.calls for site in call]
        return naming(compiled, tuple(layers))
