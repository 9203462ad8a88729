"""A graph together with the bodies that its ops run, each lifted for itself.

Rules never cross from one into another: a body may run several times, or not at all. What a body
is given as a parameter of the graph around it is a parameter there, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from bnfx.passes.algebra import Source
from bnfx.passes.fx.bodies.operands import Body, bodies_of
from bnfx.passes.fx.lift import Lifted, lift
from bnfx.passes.fx.parameters.scope import WHOLE, Scope
from bnfx.passes.graph import Linear
from bnfx.passes.report import GraphReport, Site, Verdict

_SUBMODULE = re.compile(r"_modules\['([^']+)'\]")


@dataclass(frozen=True, eq=False)
class Nest:
    """A lifted graph, and those that its nodes run.

    Args:
        module: that was lifted.
        lifted: the graph itself.
        calls: the bodies that each node runs.
        scope: where it stands.
    """

    module: fx.GraphModule
    lifted: Lifted
    calls: Mapping[fx.Node, tuple[tuple[Body, Nest], ...]]
    scope: Scope = WHOLE

    def walk(self) -> Iterator[Nest]:
        """This one, and all those in it."""
        yield self
        for bodies in self.calls.values():
            for _, nest in bodies:
                yield from nest.walk()

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the sources of all of them stand for."""
        return {name: value for nest in self.walk() for name, value in nest.lifted.tensors.items()}

    def report(self, run: Callable[[Nest], GraphReport]) -> GraphReport:
        """What ``run`` says of each graph, as one report, in the order in which they run."""
        report = run(self)
        inner: dict[Site, list[Verdict]] = {}
        last: list[Verdict] = []
        rewrites = dict(report.rewrites)
        for node, bodies in self.calls.items():
            sites = self.lifted.nodes[node].sites
            for site in sites:
                inner[site] = []
            for _, nest in bodies:
                told = nest.report(run)
                inner[sites[0]].extend(told.verdicts) if sites else last.extend(told.verdicts)
                for name, count in told.rewrites.items():
                    rewrites[name] = rewrites.get(name, 0) + count
        verdicts = [each for v in report.verdicts for each in inner.get(v.site, [v])]
        return replace(report, verdicts=(*verdicts, *last), rewrites=rewrites)


def lift_nest(
    module: fx.GraphModule,
    parameters: Mapping[str, torch.Tensor],
    scalars: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
    apart: bool,
    bodies: bool,
) -> Nest:
    """Lift ``module`` and what it runs.

    Args:
        parameters, scalars, others: see :class:`~bnfx.passes.fx.parameters.sources.Sources`.
        apart: whether each body has names of its own for its sources; else all have those of
            ``module``, so that numbers can be computed ahead of it.
        bodies: whether what it runs is lifted at all; else it is opaque.
    """
    if not bodies:
        return Nest(module, lift(module, parameters, scalars, others), {})
    return _lift(module, parameters, scalars, others, apart, WHOLE, set())


def _lift(
    module: fx.GraphModule,
    parameters: Mapping[str, torch.Tensor],
    scalars: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
    apart: bool,
    scope: Scope,
    seen: set[fx.GraphModule],
) -> Nest:
    lifted = lift(module, parameters, scalars, others, WHOLE if apart else scope)
    calls: dict[fx.Node, tuple[tuple[Body, Nest], ...]] = {}
    for node in module.graph.nodes:
        bodies = bodies_of(node, module)
        if bodies:
            calls[node] = tuple(
                (body, _lift_body(node, body, lifted, apart, scope, seen)) for body in bodies
            )
    return Nest(module, lifted, calls, lifted.sources.scope)


def _lift_body(
    node: fx.Node, body: Body, lifted: Lifted, apart: bool, scope: Scope, seen: set[fx.GraphModule]
) -> Nest:
    given: dict[str, Source] = {}
    tensors: dict[str, torch.Tensor] = {}
    for placeholder, operand in body.pairs()[body.varying :]:
        source: Any = lifted.sources.resolve(operand, "operand")
        if isinstance(source, Source):
            tensors[placeholder.name] = lifted.tensors[source.name]
        else:  # a number, such as eps where all is dynamic
            source = lifted.sources.resolve_scalar(operand, "operand")
        if isinstance(source, Source):
            given[placeholder.name] = source
    inner = Scope(
        given, f"{scope.attributes}{body.path}.", f"{scope.computed}{node.name}/{body.at}/"
    )
    nest = _lift(body.module, tensors, {}, {}, apart, inner, seen)
    if body.module in seen:
        _rename(node, body, nest)
    seen.add(body.module)
    return nest


def _rename(node: fx.Node, body: Body, nest: Nest) -> None:
    """Name what a body holds that runs elsewhere, too, by the modules that own it here."""
    operands: dict[Any, object] = dict(body.pairs())
    for each in nest.lifted.graph:
        if each.sites or isinstance(each.role, Linear):
            owners = (_owner(operands.get(source)) for source in each.origin.all_input_nodes)
            name = next(filter(None, owners), f"{each.name} ({node.name})")
            each.name = name
            each.sites = tuple(replace(site, name=name) for site in each.sites)


def _owner(operand: object) -> str:
    """The path of the module that owns a parameter of Dynamo's graph, or ``""``."""
    source = getattr(getattr(operand, "_dynamo_source", None), "name", "")
    return ".".join(_SUBMODULE.findall(source() if callable(source) else source))
