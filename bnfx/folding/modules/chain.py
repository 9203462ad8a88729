"""Folds in one chain of modules, each of which hands its result to the next and to nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.example_shapes import describe_shapes
from bnfx.folding.modules.affine_modules import Unit, find_units, left_of, traced_chain
from bnfx.folding.modules.layers import Layers
from bnfx.folding.modules.misfits import refuse_misfit
from bnfx.passes import pipeline
from bnfx.passes.algebra import Expression
from bnfx.passes.fx.lift import Lifted, lift
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.rewrite import make_values
from bnfx.passes.graph import Affine, Linear, Node, Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.rule import Rule

_WHATEVER_SHAPES = {Code.NO_LINEAR_BEFORE, Code.NO_LINEAR_AFTER, Code.NESTED_GRAPH}


class ModuleChain:
    """Folds in one chain of modules."""

    def __init__(self, model: nn.Module, paths: Sequence[str], rules: Sequence[Rule]) -> None:
        self._model = model
        self._paths = list(paths)
        self._rules = rules
        self._modules = [model.get_submodule(path) for path in paths]
        self._traced = traced_chain(self._modules)
        self._layers = Layers(self._traced)
        self._refused: dict[str, str] = {}
        self._lifted: Lifted | None = None
        self._report = GraphReport()
        self._units: dict[str, Unit] = {}
        self._values: Any = None

    def fold(self, examples: tuple[Any, ...] | None) -> None:
        """Decide, with shapes or without; nothing is written yet."""
        if examples is not None:
            try:
                describe_shapes(self._traced, examples)
            except CaptureError:
                return
        refused: dict[str, str] = {}
        while True:
            lifted, units = self._lift(refused)
            values = make_values(lifted.tensors)
            before = set(lifted.graph)
            with torch.inference_mode(False), torch.no_grad():
                self._report = pipeline.run(lifted.graph, self._rules, values)
            news = self._problems(lifted, units, before)
            if not news:
                break
            refused |= news
        self._lifted, self._units, self._values, self._refused = lifted, units, values, refused

    def needs_shapes(self) -> bool:
        """Whether a map is still there that could go if shapes were known."""
        lifted = self._lifted
        assert lifted is not None
        opened = self._traced.graph.find_nodes(op="get_attr")  # in modules that compute a map
        unread = {_place(str(node.target)) for node in opened} - set(map(_place, self._units))
        if not unread and all(self._is_gone(lifted, unit) for unit in self._units.values()):
            return False
        codes = {r.code for verdict in self._report.verdicts for r in verdict.refusals}
        return not codes <= _WHATEVER_SHAPES or any(
            isinstance(node.role, Opaque) and self._is_torchs(fx_node)
            for fx_node, node in lifted.nodes.items()
        )

    def _is_torchs(self, node: fx.Node) -> bool:
        """Whether it is an op of torch's, which may be known once its shapes are."""
        if node.op != "call_module":
            return node.op in ("call_function", "call_method")
        return type(self._traced.get_submodule(str(node.target))).__module__.startswith("torch.")

    def write(self, folded: list[str], refused: dict[str, str]) -> None:
        """Carry out what was decided."""
        lifted = self._lifted
        assert lifted is not None
        refused |= {self._path(name): why for name, why in self._refused.items()}
        gone = {name: unit for name, unit in self._units.items() if self._is_gone(lifted, unit)}
        for name in self._units.keys() - gone.keys():
            refused.setdefault(self._path(name), self._neighbours(name))
        for path, module in zip(self._paths, self._modules, strict=True):
            if nn.utils.parametrize.is_parametrized(module):
                refused.setdefault(path, f"the numbers of {path} are computed, not stored")
        if not gone:
            return
        with torch.inference_mode(False), torch.no_grad():
            for node in lifted.graph:
                if lifted.is_rewritten(node):
                    self._write(node)
        for name, unit in gone.items():
            path = self._path(name)
            owner, _, last = path.rpartition(".")
            old = self._model.get_submodule(path)
            # Not by ``setattr``, which the user's class may have made its own.
            below = self._model.get_submodule(owner)._modules
            below[last] = left_of(old, unit).train(old.training)
            folded.append(path)

    def _neighbours(self, name: str) -> str:
        """Why a map stays that no rule folds."""
        place = _place(name)
        around = [at for at in (place - 1, place + 1) if 0 <= at < len(self._modules)]
        kinds = [f"{self._paths[at]} ({type(self._modules[at]).__name__})" for at in around]
        where = "next to it" if len(kinds) == 1 else "around it"
        return f"{' and '.join(kinds)}, {where}, cannot take it in place"

    def _path(self, name: str) -> str:
        """The path in the model of a path in the chain."""
        place, _, inside = name.partition(".")
        return f"{self._paths[int(place)]}.{inside}".rstrip(".")

    def _lift(self, refused: dict[str, str]) -> tuple[Lifted, dict[str, Unit]]:
        """The neutral graph, in which only maps that are modules may be folded."""
        lifted = lift(self._traced, {}, {}, {})
        units: dict[str, Unit] = {}
        for path, unit in find_units(self._traced, lifted).items():
            if isinstance(unit, str):
                refused.setdefault(path, unit)
            elif (why := refuse_misfit(self._modules, _place(path))) is not None:
                refused.setdefault(path, why)
            elif path not in refused:
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
        for node in lifted.graph:
            if not lifted.is_rewritten(node):
                continue
            why: str | None
            if node not in before or not isinstance(node.role, Linear):
                why = "what is left of it is an op that no module holds"
            elif not lifted.keeps_call(node):
                why = "the layer that it is folded into becomes another"
            else:
                why = self._layers.refuse(node.origin, node.role.operator.bias is not None)
            if why is not None:
                news |= dict.fromkeys(self._units_in(node, units, gone), why)
        return news

    def _units_in(self, node: Node, units: dict[str, Unit], gone: set[Any]) -> list[str]:
        """The units whose maps the node holds now; all that went, if that cannot be told."""
        role = node.role
        expressions: list[Expression | None] = []
        if isinstance(role, Linear):
            expressions = [role.operator.weight, role.operator.bias]
        elif isinstance(role, Affine):
            expressions = [role.map.scale, role.map.shift]
        read = {s.name for e in expressions if e is not None for s in e.sources()}
        went = [path for path, unit in units.items() if gone.intersection(unit.maps)]
        homes = {self._layers.home_of(name) for name in read}
        return [path for path in went if path in homes] or went

    def _write(self, node: Node) -> None:
        assert isinstance(node.role, Linear)
        operator, dtype = node.role.operator, node.role.dtype
        owner_path, name, bias = self._layers.places(node.origin)
        owner = self._traced.get_submodule(owner_path)
        owner = self._modules[_place(owner_path)].get_submodule(owner_path.partition(".")[2])
        grad = owner.get_parameter(name).requires_grad
        for place, expression in ((name, operator.weight), (bias, operator.bias)):
            if expression is None:
                continue
            slot = Slot(place, expression, dtype)
            tensor = self._values.stored(slot.expression, slot.dtype)
            before = owner._parameters.get(place)
            if before is not None and before.shape == tensor.shape:
                tensor = torch.empty_like(before).copy_(tensor)  # a layout may decide the output's
            owner._parameters[place] = nn.Parameter(tensor, requires_grad=grad)


def _place(path: str) -> int:
    """The place in the chain of the module that a path in the chain leads into."""
    return int(path.partition(".")[0])
