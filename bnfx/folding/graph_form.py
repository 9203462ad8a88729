"""The folded model as a graph: capture, rewrite, fill in the numbers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import without_checks, write_checks
from bnfx.folding.capturing.asking.classes import looks
from bnfx.folding.capturing.asking.questions import Questions
from bnfx.folding.capturing.capture import capture
from bnfx.folding.capturing.state_changes import check_no_state
from bnfx.folding.capturing.symbolic import trace
from bnfx.folding.example_shapes import Fixed, check_shapes, describe_shapes
from bnfx.folding.given import ExampleInputs, check_no_scripted, check_traceable, copied
from bnfx.passes.fx import rewrite
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.surveys import given_up, survey_shapeless
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.rule import Rule


def fold_graph(
    model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule]
) -> tuple[fx.GraphModule, GraphReport]:
    """A folded ``GraphModule``, and what became of each BatchNorm.

    Args:
        model: any module, which is captured, or a ``GraphModule``; it is not changed.
        inputs: examples, where there are any; without, ``model`` is traced by ``torch.fx``.
        rules: those to apply.

    Raises:
        CaptureError: if ``model`` cannot be captured or copied.
    """
    check_no_scripted(model)
    check_traceable(model)
    if inputs and not isinstance(model, fx.GraphModule):
        traced = _captured(model, inputs)
        bare, checks = without_checks(traced)
        rewritten = rewrite(bare, {}, form="attributes", rules=rules)
        values: tuple[object, ...] = ()
        shapeless, fixed = None, frozenset[tuple[int, int]]()
    else:
        # A copy: whatever tracing and shape propagation leave behind, they leave it there.
        traced = trace(copied(model))
        values = _positional(traced, inputs)
        shapeless, fixed = (
            _describe(traced, values, rules, inputs.fixed) if values else (None, frozenset())
        )
        checks = ()
        rewritten = rewrite(traced, {}, form="attributes", rules=rules)
    folded = rewritten.module
    if rewritten.slots and shapeless is not None and not shapeless.agrees(rewritten.report):
        check_shapes(folded, values, fixed)  # what folded rests on them
    try:
        weights = rewritten.evaluate() if rewritten.slots else []
        assert weights is not None, "a module's own parameters are no fake tensors"
        named = {slot.name: weight for slot, weight in zip(rewritten.slots, weights, strict=True)}
        fill(folded, named)
    except Exception as error:
        return traced, given_up(traced, error, "computing the folded weights")
    _keep_paths(traced, folded, [slot.name for slot in rewritten.slots])
    if checks:
        write_checks(folded, checks)
    return folded, rewritten.report


def survey(model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule]) -> GraphReport:
    """What :func:`fold_graph` would report; no weights are computed.

    A symbolic trace will do, which is quick to have, where nothing decides by an argument.

    Args:
        model, inputs, rules: as there.

    Raises:
        CaptureError: if ``model`` cannot be captured or copied.
    """
    check_no_scripted(model)
    check_traceable(model)
    try:
        traced = trace(copied(model))
    except CaptureError:
        if not inputs:
            raise
        traced, _ = without_checks(_captured(model, inputs))
    else:
        if not inputs:
            shapeless = survey_shapeless(traced, rules)
            return (
                rewrite(traced, {}, form="attributes", rules=rules).report
                if shapeless is None
                else shapeless
            )
        _describe(traced, _positional(traced, inputs), rules, inputs.fixed)
    return rewrite(traced, {}, form="attributes", rules=rules).report


def _captured(model: nn.Module, inputs: ExampleInputs) -> fx.GraphModule:
    """The graph of the model on the inputs, which is captured once for all who ask."""
    known = inputs.captures.get(id(model))
    if known is None:
        args, kwargs = inputs.copied()
        try:
            leaves = pytree.tree_leaves((args, kwargs))
            with Questions(any(type(leaf) is nn.Parameter for leaf in leaves)) as questions:
                check_no_state(model, inputs)
            looked = looks(model, inputs)
            asked = replace(
                questions.asked(), classes=looked.classes, absent=frozenset(looked.attributes)
            )
            known = capture(copied(model), args, kwargs, inputs.fixed, asked)
        except CaptureError as error:
            known = error
        inputs.captures[id(model)] = known
    if isinstance(known, CaptureError):
        raise known
    return known


def _describe(
    traced: fx.GraphModule, values: Sequence[object], rules: Sequence[Rule], all_fixed: bool
) -> tuple[GraphReport | None, Fixed]:
    """What would be folded without shapes; and shapes, where they can be found at all."""
    shapeless = survey_shapeless(traced, rules)
    try:
        return shapeless, describe_shapes(traced, values, all_fixed)
    except CaptureError:  # the model ran on them: they fit, and so does what is true of any shapes
        return None, frozenset()


def _positional(module: fx.GraphModule, inputs: ExampleInputs) -> tuple[object, ...]:
    """The examples in the order of the placeholders."""
    if not inputs:
        return ()
    codegen = module.graph._codegen
    if getattr(codegen, "pytree_info", None) is not None:
        return tuple(codegen.process_inputs(*inputs.args, **inputs.kwargs))
    bound = inspect.signature(module.forward).bind(*inputs.args, **inputs.kwargs)
    bound.apply_defaults()
    return (*bound.args, *bound.kwargs.values())


def _keep_paths(traced: fx.GraphModule, folded: fx.GraphModule, slots: Sequence[str]) -> None:
    """Give the weights of a folded call the path of those that it had, where that is free."""
    calls = {node.name: node for node in traced.graph.nodes if node.op == "call_function"}
    reads = {str(node.target): node for node in folded.graph.find_nodes(op="get_attr")}
    for slot in slots:
        name, _, part = slot.rpartition("_")
        call = read_call(calls[name]) if name in calls and slot in reads else None
        weight = call.arguments.get("weight") if isinstance(call, Call) else None
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        owner = str(weight.target).rpartition(".")[0]
        wanted = f"{owner}.{part}"
        if not owner or wanted in reads:
            continue
        tensor = getattr(folded, slot)
        delattr(folded, slot)
        try:
            home = folded.get_submodule(owner)
        except AttributeError:
            home = nn.Module()
            folded.add_submodule(owner, home)
        if isinstance(tensor, nn.Parameter):
            home.register_parameter(part, tensor)
        else:
            home.register_buffer(part, tensor)
        reads[slot].target = wanted
        reads[wanted] = reads.pop(slot)
    folded.recompile()
