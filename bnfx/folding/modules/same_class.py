"""``keep="module"``: the folds of a graph, carried out on a copy of the user's own modules.

The analysis is that of the graph, and so is the arithmetic; what is added here is the question
whether a fold maps onto modules: one layer's weight and bias change, one BatchNorm becomes an
identity, and nobody runs one of the two without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capture import check_own_forward, copied
from bnfx.folding.example_shapes import describe_shapes
from bnfx.folding.modules.affine_modules import Unit, find_units, left_of
from bnfx.folding.modules.ownership import Links
from bnfx.folding.modules.traced_parts import Part, traced_parts
from bnfx.passes import pipeline
from bnfx.passes.algebra import Expression
from bnfx.passes.fx.lift import Lifted, lift
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.rewrite import make_values
from bnfx.passes.graph import Affine, Linear, Node, Opaque
from bnfx.passes.report import GraphReport, Outcome
from bnfx.passes.rules import fold_affine_into_linear, fold_affine_into_next_linear
from bnfx.passes.rules.rule import Rule

# The others make nodes that no module of the user's could hold, or move work between modules.
_GRAPH_ONLY = ("merge-parallel-linear", "merge-serial-linear")
_RULES = (fold_affine_into_linear.RULE, fold_affine_into_next_linear.RULE)


@dataclass
class SameClass:
    """A folded copy.

    Args:
        model: of the user's class.
        folded: the paths of the modules that are identities now.
        refused: path -> why a map that the graph has there could not be folded.
    """

    model: nn.Module
    folded: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def missing(self, report: GraphReport) -> list[str]:
        """Where a graph with that report folded or merged a map that is still there.

        Args:
            report: of a graph in which nothing is :func:`graph_only`.
        """
        names = [
            verdict.site.name.split(":")[0]
            for verdict in report.verdicts
            if verdict.outcome in (Outcome.FOLDED, Outcome.MERGED)
        ]
        return [name for name in dict.fromkeys(names) if name not in self.folded]

    def refused_norms(self) -> dict[str, str]:
        """Of what was refused, the modules with running statistics."""
        stats = {
            path: getattr(self.model.get_submodule(path), "running_var", None)
            for path in self.refused
        }
        return {p: why for p, why in self.refused.items() if stats[p] is not None}


def graph_only(report: GraphReport) -> list[str]:
    """The rules that made something, in a graph, which no module of the user's could hold."""
    return [name for name in _GRAPH_ONLY if report.rewrites.get(name)]


def fold_modules(
    model: nn.Module, example_inputs: Sequence[Any], rules: Sequence[Rule]
) -> SameClass:
    """Fold what maps onto modules, in a copy of ``model``.

    A model that cannot be traced whole is traced in parts: each largest submodule that can be, as
    a detector's backbone. A fold is inside one part; what is above it was not traced, and its code
    is read for who might run a layer of the part by itself.

    Args:
        model: in evaluation mode; not changed.
        example_inputs: for ranks; parts get the inputs that they are called with.
        rules: those to apply, of which two are used.

    Raises:
        CaptureError: if the model cannot be copied or no part of it be traced.
    """
    check_own_forward(model)
    result = SameClass(copied(model))
    chosen = [rule for rule in rules if rule in _RULES]
    scratch = copied(model)
    for part in traced_parts(scratch, example_inputs):
        _Part(part, scratch).fold(result, chosen)
    return result


class _Part:
    """A traced submodule of the model."""

    def __init__(self, part: Part, whole: nn.Module) -> None:
        self.path = part.path
        self.traced = part.traced
        self.links = Links(part.path, whole, part.traced, part.callers)
        if part.inputs:
            describe_shapes(part.traced, part.inputs)

    def fold(self, result: SameClass, rules: Sequence[Rule]) -> None:
        """Carry out in ``result`` what maps onto modules, and note what does not."""
        refused: dict[str, str] = {}
        while True:
            lifted, units = self._lift(refused)
            values = make_values(lifted.tensors)
            before = set(lifted.graph)
            with torch.inference_mode(False), torch.no_grad():
                pipeline.run(lifted.graph, rules, values)
            news = self._problems(lifted, units, before)
            if not news:
                break
            refused |= news
        gone = {path: unit for path, unit in units.items() if self._is_gone(lifted, unit)}
        for path in gone:
            result.folded.append(self._full(path))
        result.refused |= {self._full(path): why for path, why in refused.items()}
        if not gone:
            return
        assert values is not None
        with torch.inference_mode(False), torch.no_grad():
            for node in lifted.graph:
                if lifted.is_rewritten(node):
                    self._write(node, values, result.model)
        for path, unit in gone.items():
            owner, _, name = self._full(path).rpartition(".")
            old = result.model.get_submodule(self._full(path))
            setattr(result.model.get_submodule(owner), name, left_of(old, unit).train(old.training))

    def _full(self, path: str) -> str:
        return f"{self.path}.{path}".strip(".")

    def _lift(self, refused: dict[str, str]) -> tuple[Lifted, dict[str, Unit]]:
        """The neutral graph, in which only maps that are modules may be folded."""
        lifted = lift(self.traced, {}, {}, {})
        units: dict[str, Unit] = {}
        for path, unit in find_units(self.traced, lifted).items():
            why = unit if isinstance(unit, str) else self.links.refuse_unit(unit)
            if path and why:
                refused.setdefault(path, why)
            if path and path not in refused and isinstance(unit, Unit):
                units[path] = unit
        allowed = {node for unit in units.values() for node in unit.maps}
        roles: Any = lifted.roles
        for fx_node, node in lifted.nodes.items():
            if isinstance(node.role, Affine) and fx_node not in allowed:
                node.role = roles[node] = Opaque()
        return lifted, units

    def _is_gone(self, lifted: Lifted, unit: Unit) -> bool:
        return all(lifted.nodes[node] not in lifted.graph for node in unit.maps)

    def _problems(
        self, lifted: Lifted, units: dict[str, Unit], before: set[Node]
    ) -> dict[str, str]:
        """Units whose fold does not map onto modules, and why."""
        news: dict[str, str] = {}
        gone = {node for unit in units.values() for node in unit.maps}
        gone = {node for node in gone if lifted.nodes[node] not in lifted.graph}
        for path, unit in units.items():
            if 0 < sum(node in gone for node in unit.maps) < len(unit.maps):
                news[path] = "one of its calls can be folded, another cannot"
        folds: dict[str, list[tuple[Expression, Expression | None]]] = {}
        for node in lifted.graph:
            if not lifted.is_rewritten(node):
                continue
            parts = self._units_in(node, lifted, units, gone)
            why: str | None
            if node not in before or not isinstance(node.role, Linear):
                why = "what is left of it is an op that no module holds"
            elif not lifted.keeps_call(node):
                why = "the layer that it is folded into becomes another"
            else:
                operator = node.role.operator
                layer = self.links.layer_of(node.origin)
                why = self.links.refuse_layer(node.origin, operator.bias is not None)
                if why is None and layer is not None:
                    folds.setdefault(layer, []).append((operator.weight, operator.bias))
                    why = self._refuse_calls(layer, lifted, folds[layer])
                    whys = (self.links.refuse_pair(layer, units[path]) for path in parts)
                    why = why or next((w for w in whys if w), None)
            if why is not None:
                news |= dict.fromkeys(parts, why)
        return news

    def _refuse_calls(self, layer: str, lifted: Lifted, folds: Sequence[Any]) -> str | None:
        calls = [n for n in lifted.graph if self.links.layer_of(n.origin) == layer]
        if any(not lifted.is_rewritten(node) for node in calls):
            return f"{layer} is called elsewhere too"
        if any(fold != folds[0] for fold in folds):
            return f"{layer} is called several times, with different folds"
        return None

    def _units_in(
        self, node: Node, lifted: Lifted, units: dict[str, Unit], gone: set[fx.Node]
    ) -> list[str]:
        """The units whose maps the node holds now; all that went, if that cannot be told."""
        role = node.role
        expressions: list[Any] = []
        if isinstance(role, Linear):
            expressions = [role.operator.weight, role.operator.bias]
        elif isinstance(role, Affine):
            expressions = [role.map.scale, role.map.shift]
        read = {s.name for e in expressions if e is not None for s in e.sources()}
        went = [path for path, unit in units.items() if gone.intersection(unit.maps)]
        homes = {self.links.home_of(name) for name in read}
        return [path for path in went if path in homes] or went

    def _write(self, node: Node, values: Any, model: nn.Module) -> None:
        assert isinstance(node.role, Linear)
        operator, dtype = node.role.operator, node.role.dtype
        weight, bias = self.links.places(node.origin)
        owner, name = model.get_submodule(self._full(weight[0])), weight[1]
        grad = owner.get_parameter(name).requires_grad
        for place, expression in ((name, operator.weight), (bias, operator.bias)):
            if expression is None:
                continue
            slot = Slot(place, expression, dtype)
            tensor = values.stored(slot.expression, slot.dtype)
            owner.register_parameter(place, nn.Parameter(tensor, requires_grad=grad))
