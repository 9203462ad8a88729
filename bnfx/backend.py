"""The ``torch.compile`` backend ``"bnfx"``.

It takes the graph that Dynamo captured, synchronises BatchNorms in training under a process group,
folds what can be folded, and passes the graph to the inner compiler. Where gradients are needed,
the fold is part of the graph. A graph with nothing to fold goes to the inner compiler unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from bnfx.errors import InnerWarning, OptionError, SyncError
from bnfx.folding.first_answer import may_serve
from bnfx.folding.verify import disagreement
from bnfx.inner.base import EngineRefusal, Inner
from bnfx.inner.kept_memory import keeping_memory
from bnfx.inner.resolve import resolve
from bnfx.options import Options, parse_rules
from bnfx.passes.fx.dynamo import GraphInputs, switches_gradients, without_gradients
from bnfx.passes.fx.memory.output_memory import OutputMemory
from bnfx.passes.fx.rewrite import Rewritten, is_meta, rewrite_captured
from bnfx.passes.fx.surveys import survey
from bnfx.passes.fx.training.synchronise import Swapped
from bnfx.passes.pipeline import warn_of_failure
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, RewriteWarning
from bnfx.passes.user_warnings import warn
from bnfx.report import Report
from bnfx.report.output import anyone_gets_it, deliver
from bnfx.sync.graphs.compiled_call import register_backend
from bnfx.sync.graphs.compiled_models import note_compiled_models
from bnfx.sync.graphs.empty import for_batch
from bnfx.sync.graphs.graph_calls import synchronised
from bnfx.sync.graphs.outside import cover_batch_norms
from bnfx.sync.graphs.overlap import overlapping
from bnfx.sync.graphs.unshared import watch_function_calls, watch_scripted_calls
from bnfx.sync.group import peers_of
from bnfx.sync.waiting import naming
from bnfx.torch_private import RestartAnalysis, through_dynamo
from bnfx.weights.function import FoldedFunction
from bnfx.weights.traced import compile_traced, trace


def bnfx(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Fold the BatchNorms of a captured graph and compile the rest with the inner compiler.

    ``torch.compile(model, backend="bnfx")`` finds it through its entry point.

    Args:
        module: the graph that Dynamo captured; left untouched.
        example_inputs: its inputs; parameters are the real tensors.
        mode: as for ``torch.compile``; passed on if the inner compiler is Inductor.
        options: see :class:`bnfx.options.Options`.

    Raises:
        OptionError: for an unknown option or value.
        SyncError: if ``sync="require"`` cannot be met.
    """
    memory = _memory_of_outputs(module)
    module = memory.module
    try:
        chosen = Options.parse(options)
        inner = resolve(chosen, mode)
        swapped = synchronised(module, chosen)
    except (OptionError, SyncError) as error:
        raise through_dynamo(error) from None
    inner = overlapping(for_batch(inner, swapped, example_inputs), swapped)
    job = _Job(swapped, example_inputs, inner, chosen)
    try:
        plan = job.plan()
    except RestartAnalysis:
        raise  # Dynamo traces once more, with what the compiler learnt, and comes back
    except Exception as error:
        message = warn_of_failure(error, "the rewrite", "graph")
        plan = job.leave(Refusal(Code.INTERNAL_ERROR, message), {})
    return keeping_memory(job.finish(plan), memory)


def _memory_of_outputs(module: fx.GraphModule) -> OutputMemory:
    try:
        return OutputMemory.of(module)
    except Exception as error:
        warn_of_failure(error, "reading what shares memory", "graph")
        return OutputMemory.unread(module)


@dataclass(frozen=True)
class _Plan:
    """What becomes of a graph: its report, and what was compiled (``None``: nothing yet)."""

    report: GraphReport
    compiled: Callable[..., Any] | None = None


@dataclass(frozen=True)
class _Job:
    """One captured graph to compile."""

    swapped: Swapped
    example_inputs: Sequence[Any]
    inner: Inner
    options: Options

    @property
    def module(self) -> fx.GraphModule:
        return self.swapped.module

    def plan(self) -> _Plan:
        """Decide what is folded and how, and compile that."""
        inputs = GraphInputs.of(self.module, self.example_inputs)
        if any(map(is_meta, inputs.parameters.values())):
            why = "its parameters are on the meta device"
            return self.leave(Refusal(Code.UNSUPPORTED_DTYPE, why), inputs.parameters)
        weights = self.options.weights
        if without_gradients(self.module, self.example_inputs):
            return self.trace(inputs, "as asked") if weights == "traced" else self.fold(inputs)
        why = "the graph was compiled with gradients enabled"
        if weights not in ("auto", "traced"):
            why += f"; weights={weights!r} computes folded weights ahead of it"
            return self.leave(Refusal(Code.GRADIENTS_NEEDED, why), inputs.parameters)
        if switches_gradients(self.module):
            why += ", and switches them in its middle"
            return self.leave(Refusal(Code.GRADIENTS_NEEDED, why), inputs.parameters)
        return self.trace(inputs, "gradients are needed")

    def leave(self, refusal: Refusal, parameters: Mapping[str, torch.Tensor]) -> _Plan:
        """Leave the graph as it is, with this reason in the report."""
        return _Plan(survey(self.module, parameters, refusal))

    def fold(self, inputs: GraphInputs) -> _Plan:
        """Fold its weights ahead of time."""
        rules = parse_rules(self.options.rules)
        rewritten = rewrite_captured(
            self.module,
            inputs,
            rules,
            detailed=self.options.wants_details,
            measured=anyone_gets_it(self.options.report),
        )
        if not rewritten.slots and self.inner.fallback is None:
            return _Plan(rewritten.report)

        def refold(inputs: GraphInputs) -> Rewritten:
            return rewrite_captured(module, inputs, rules, signs=False, measured=False)

        module = self.module
        has_numbers = rewritten.values is not None or not inputs.parameters

        def compile_() -> tuple[Callable[..., Any], str, str]:
            try:
                return with_(self.inner)
            except EngineRefusal as refusal:
                assert self.inner.fallback is not None
                if not refusal.quiet:
                    warn(f"bnfx: {refusal}; another compiler has the graph", InnerWarning)
                return with_(self.inner.fallback)

        def with_(inner: Inner) -> tuple[Callable[..., Any], str, str]:
            if not rewritten.slots and inner.fallback is None:
                return inner.compile(module, self.example_inputs), "", ""
            folded = FoldedFunction(module, inputs, rewritten, refold, inner, self.options.check)
            return folded, *folded.compile(self.example_inputs, has_numbers, self.options.weights)

        return self._verified(inputs, rewritten, compile_)

    def trace(self, inputs: GraphInputs, why: str) -> _Plan:
        """Make the fold part of the graph, so that gradients flow."""
        rules, told = parse_rules(self.options.rules), anyone_gets_it(self.options.report)
        traced = trace(self.module, inputs, rules, measured=told)
        if traced is None:
            refusal = Refusal(Code.GRADIENTS_NEEDED, "no BatchNorm folds in the graph")
            return self.leave(refusal, inputs.parameters)

        def compile_() -> tuple[Callable[..., Any], str, str]:
            compiled = compile_traced(self.module, inputs, traced, self.example_inputs, self.inner)
            return compiled, "traced", why

        return self._verified(inputs, traced, compile_)

    def _verified(
        self,
        inputs: GraphInputs,
        rewritten: Rewritten,
        compile_: Callable[[], tuple[Callable[..., Any], str, str]],
    ) -> _Plan:
        """Compile the rewritten graph, if the answers agree; warn if they do not."""
        verify, problem = self.options.verify, None
        if verify:
            problem = disagreement(self.module, rewritten, self.example_inputs, verify)
        if problem is None:
            try:
                compiled, form, why = compile_()
            except RestartAnalysis:
                raise
            except Exception as error:
                problem = f"bnfx: the folded graph did not compile, the original is used: {error!r}"
        if problem is not None:
            warn(problem, RewriteWarning)
            return self.leave(Refusal(Code.INTERNAL_ERROR, problem), inputs.parameters)
        if form != "traced" and not self._is_right(compiled):
            why = "the inner compiler's answer is not the model's; PyTorch runs the graph"
            refused = self.leave(Refusal(Code.INTERNAL_ERROR, why), inputs.parameters)
            return replace(refused, compiled=self.module.forward)
        notes = (*rewritten.report.notes, *self.inner.notes)
        report = replace(rewritten.report, weights=form, weights_reason=why, notes=notes)
        return _Plan(report, compiled)

    def _is_right(self, compiled: Callable[..., Any]) -> bool:
        """Whether what was compiled may serve, by its first answer."""
        if self.inner.fallback is not None or self.swapped.calls:
            return True  # engines are held to PyTorch's answers anyway; ranks would wait
        inner, choice = self.options.inner, self.options.first_answer
        return may_serve(self.module, compiled, self.example_inputs, inner, choice)

    def finish(self, plan: _Plan) -> Callable[..., Any]:
        """Compile the original if need be, and deliver the report."""
        compiled = plan.compiled
        if compiled is None:
            compiled = self.inner.compile(self.module, self.example_inputs)
        report = plan.report
        try:
            report = self.swapped.annotate(report)
        except Exception as error:
            warn(f"bnfx: the report has no word on what is synchronised: {error!r}", RewriteWarning)
        # Once it is true: a compiler may start over.
        deliver(Report((report,)), self.options.report)
        layers = [site.name for call in self.swapped.calls for site in call]
        peers = peers_of(self.options.process_group)
        return naming(compiled, tuple(layers), "" if peers is None else peers.name)


# torch.compile imports this module, before the first step of what it compiles.
register_backend(bnfx)
note_compiled_models()
cover_batch_norms()
watch_scripted_calls()
watch_function_calls()
