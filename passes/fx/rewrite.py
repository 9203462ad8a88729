"""The whole way: lift, run the rules, lower. Never raises for a graph it cannot rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from bnfx.passes import pipeline
from bnfx.passes.algebra import Source
from bnfx.passes.fx import private
from bnfx.passes.fx.bodies.lower_bodies import lower_nest
from bnfx.passes.fx.bodies.nest import Nest, lift_nest
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.lowering.recipe import Computing, Recipe
from bnfx.passes.fx.lowering.slots import Slot, WeightsAs
from bnfx.passes.fx.lowering.trace import device_of
from bnfx.passes.fx.norm_numbers import norm_numbers
from bnfx.passes.fx.surveys import given_up
from bnfx.passes.fx.weight_bytes import weight_bytes
from bnfx.passes.lifting.op_lists import run_detailed
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule
from bnfx.passes.values import Values

# MPS has no float64; folding there is done in float32.
_NO_FLOAT64 = frozenset({"mps"})


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph.

    Args:
        module: the lowered module, or the original one if there was nothing to do.
        slots: what must be filled before ``module`` runs.
        values: evaluates the slots; ``None`` where parameters are fake.
        report: what became of each BatchNorm.
        recipe: fills the slots from other numbers; ``None`` where ``values`` is.
        tables: constant numbers that a traced module takes as its last inputs.
    """

    module: fx.GraphModule
    slots: tuple[Slot, ...]
    values: Values | None
    report: GraphReport
    recipe: Recipe | None = None
    tables: tuple[torch.Tensor, ...] | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The parameters that the slots read, each once."""
        found = (source for slot in self.slots for source in slot.expression.sources())
        return tuple(dict.fromkeys(found))

    def last_inputs(self) -> Sequence[torch.Tensor] | None:
        """What ``module`` takes behind the inputs of the original; ``None`` if not known yet."""
        return self.evaluate() if self.tables is None else self.tables

    def evaluate(self) -> list[torch.Tensor] | None:
        """What the slots hold, in their order; ``None`` where parameters are fake."""
        if self.values is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return [self.values.stored(slot.expression, slot.dtype) for slot in self.slots]


def rewrite(
    module: fx.GraphModule,
    parameters: Mapping[str, torch.Tensor],
    *,
    form: WeightsAs,
    scalars: Mapping[str, torch.Tensor] | None = None,
    others: Mapping[str, torch.Tensor] | None = None,
    rules: Sequence[Rule] = RULES,
    signs: bool = True,
    fixed: bool = True,
    detailed: bool = False,
    bodies: bool = True,
    measured: bool = True,
) -> Rewritten:
    """Fold what can be folded in ``module``, which is left untouched.

    If anything raises, the original module is returned and a
    :class:`~bnfx.passes.report.RewriteWarning` names the rule that broke: a broken rewrite never
    reaches the user.

    Args:
        module: from Dynamo, ``fx.symbolic_trace`` or ``torch.export``.
        parameters, scalars, others: see :class:`~bnfx.passes.fx.parameters.sources.Sources`.
        form: see :mod:`bnfx.passes.fx.lowering.lower`.
        rules: in order of preference.
        signs, fixed: see :class:`~bnfx.passes.values.Values`.
        detailed: whether the report has the details that pictures of the graph show.
        bodies: whether the graphs that nodes run (branches, loop bodies) are folded, too.
        measured: whether the report says what rounding each fold adds; that costs as much as the
            rest.
    """
    try:
        apart = form == "traced"
        nest = lift_nest(module, parameters, scalars or {}, others or {}, apart, bodies)
        tensors = nest.tensors()
        about = {"signs": signs, "fixed": fixed, "measured": measured}
        values = make_values(nest.lifted.tensors if apart else tensors, **about)

        def run(each: Nest) -> GraphReport:
            if each is nest:
                return _run(nest.lifted, rules, values, detailed)
            own = each.lifted.tensors
            numbers = make_values(own, **about) if apart else values
            return pipeline.run(each.lifted.graph, rules, numbers)

        with torch.inference_mode(False), torch.no_grad():
            report = nest.report(run)
        dtype = getattr(torch, computing_dtype(tensors))
        lowered = lower_nest(nest, form, dtype)
        if apart and lowered.slots:
            device = device_of(tensors.values())
            tables = tuple(
                torch.asarray(table.array, dtype=dtype, device=device) for table in lowered.tables
            )
            return Rewritten(lowered.module, lowered.slots, values, report, tables=tables)
        if not lowered.slots:
            return Rewritten(module, (), values, report)
        report = replace(
            report,
            bytes_before=weight_bytes(module, parameters),
            bytes_after=weight_bytes(lowered.module, parameters, lowered.slots),
        )
        recipe = None
        if values is not None:
            computing = (Computing(n.module, n.lifted.constants, n.scope) for n in nest.walk())
            recipe = Recipe.of(module, computing, lowered.slots, values)
        return Rewritten(lowered.module, lowered.slots, values, report, recipe)
    except Exception as error:
        return Rewritten(module, (), None, given_up(module, error))


def _run(
    lifted: Lifted, rules: Sequence[Rule], values: Values | None, detailed: bool
) -> GraphReport:
    """Apply the rules; the report has details if asked for."""
    if not detailed:
        return pipeline.run(lifted.graph, rules, values)
    norms = {} if values is None else norm_numbers(lifted.norms, lifted.roles, values)
    return run_detailed(lifted.graph, rules, values, norms)


def rewrite_captured(
    module: fx.GraphModule,
    inputs: GraphInputs,
    rules: Sequence[Rule] = RULES,
    signs: bool = True,
    detailed: bool = False,
    measured: bool = True,
) -> Rewritten:
    """:func:`rewrite` for what Dynamo captured; the slots are placeholders."""
    return rewrite(
        module,
        inputs.parameters,
        form="placeholders",
        scalars=inputs.scalars,
        others=inputs.others,
        rules=rules,
        signs=signs,
        detailed=detailed,
        measured=measured,
    )


def rewrite_traced(
    module: fx.GraphModule, inputs: GraphInputs, rules: Sequence[Rule], measured: bool
) -> Rewritten:
    """:func:`rewrite` for what Dynamo captured; the graph computes its slots at each call."""
    return rewrite(
        module,
        inputs.parameters,
        form="traced",
        scalars=inputs.scalars,
        others=inputs.others,
        rules=rules,
        signs=False,
        fixed=False,
        measured=measured,
    )


def make_values(
    tensors: Mapping[str, torch.Tensor],
    *,
    signs: bool = True,
    fixed: bool = True,
    measured: bool = True,
) -> Values | None:
    """An evaluator over ``tensors``, or ``None`` where they hold no numbers."""
    if not tensors or any(isinstance(t, private.FakeTensor) or t.is_meta for t in tensors.values()):
        return None
    like = next(iter(tensors.values())).detach()
    dtype = computing_dtype(tensors)
    return Values(
        lambda source: tensors[source.name].detach(),
        like,
        dtype,
        signs=signs,
        fixed=fixed,
        measured=measured,
    )


def computing_dtype(tensors: Mapping[str, torch.Tensor]) -> str:
    """In which dtype expressions over ``tensors`` are evaluated."""
    lacking = any(tensor.device.type in _NO_FLOAT64 for tensor in tensors.values())
    return "float32" if lacking else "float64"


def is_meta(tensor: torch.Tensor) -> bool:
    """Whether it is a tensor of the user's that holds no numbers."""
    return tensor.is_meta and not isinstance(tensor, private.FakeTensor)
