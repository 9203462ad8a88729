"""Whether a fold in a graph is one on modules: where weights lie, and who else reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from bnfx.folding.modules.affine_modules import Unit, scope_of
from bnfx.folding.modules.callers import Callers
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import has_hooks, known_class
from bnfx.passes.fx.parameters.sources import ATTRIBUTE_PREFIX, memory

# Where torch keeps what it registers
_REGISTERS = frozenset(vars(nn.Module()))


class Links:
    """What binds the nodes of a traced part to the modules of the whole model.

    Args:
        path: of the part in the whole model.
        whole: the model; its modules are those that were traced, but for a part that is the whole.
        traced: the graph of the part.
        callers: what ran while it was traced.
    """

    def __init__(
        self, path: str, whole: nn.Module, traced: fx.GraphModule, callers: Callers
    ) -> None:
        self._traced = traced
        self._path = path
        self._root = callers.root
        self._whole = whole if path else self._root
        self._callers = callers
        self._scopes = {node.name: scope_of(node) for node in traced.graph.nodes}
        self._reads: Counter[str] = Counter(
            str(n.target) for n in traced.graph.find_nodes(op="get_attr") for _ in n.users
        )
        places = self._whole.named_modules(remove_duplicate=False)
        self._homes = Counter(id(module) for _, module in places)
        self._homes.update(id(module) for module in _held_aside(self._whole))
        owned: Counter[Any] = Counter()
        for module in set(self._whole.modules()):
            tensors = (*module._parameters.values(), *module._buffers.values())
            owned.update(memory(t) for t in tensors if t is not None)
        self._owned = owned

    def home_of(self, source: str) -> str:
        """The path of the module that a source of an expression belongs to, or is computed in."""
        if source.startswith(ATTRIBUTE_PREFIX):
            return source.removeprefix(ATTRIBUTE_PREFIX).rpartition(".")[0]
        return self._scopes.get(source, "")

    def layer_of(self, node: fx.Node) -> str | None:
        """The path of the module whose weight the node applies, if it is one module's own."""
        if node.op == "call_module":
            return str(node.target)
        call = read_call(node)
        if not isinstance(call, Call) or "weight" not in call.arguments:
            return None
        weight = call.arguments["weight"]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return None
        return str(weight.target).rpartition(".")[0] or None

    def places(self, node: fx.Node) -> tuple[tuple[str, str], str]:
        """The layer with the name of its weight there, and the name of its bias."""
        if node.op == "call_module":
            return (str(node.target), "weight"), "bias"
        call = read_call(node)
        assert isinstance(call, Call)
        owner, _, name = str(call.arguments["weight"].target).rpartition(".")
        bias = call.arguments["bias"]
        return (owner, name), "bias" if bias is None else str(bias.target).rpartition(".")[2]

    def refuse_unit(self, unit: Unit) -> str | None:
        """Why the module of a map cannot be taken out, whatever it would be folded into."""
        return self._refuse_module(unit.path)

    def _refuse_module(self, path: str) -> str | None:
        module = self._root.get_submodule(path)
        if has_hooks(module):
            return f"{path} has hooks"
        if self._homes[id(module)] > 1:
            return f"{path} is registered in several places"
        return None

    def refuse_layer(self, node: fx.Node, needs_bias: bool) -> str | None:
        """Why the weights that the node applies cannot be rewritten where they lie."""
        path = self.layer_of(node)
        if path is None:
            return "the weight that it is folded into is no layer's own"
        layer = self._root.get_submodule(path)
        why = self._refuse_module(path)
        if why is not None:
            return why
        (_, weight), bias = self.places(node)
        if not isinstance(layer._parameters.get(weight), nn.Parameter):
            return f"the weight of {path} is computed, not stored"
        tensors = [layer._parameters[weight], layer._parameters.get(bias)]
        if any(t is not None and self._owned[memory(t)] > 1 for t in tensors):
            return f"the weights of {path} are shared with another module"
        if needs_bias and tensors[1] is None:
            known = known_class(layer) is not None
            if bias not in layer._parameters or not (known or self._callers.reads(layer, bias)):
                return f"{path} has no room for a bias"
        names = {f"{path}.{weight}", f"{path}.{bias}"}
        others = [n for n in self._traced.graph.nodes if self.layer_of(n) == path]
        reads = sum(self._reads[name] for name in names)
        own = sum(
            argument.op == "get_attr" and str(argument.target) in names
            for call in others
            for argument in call.all_input_nodes
        )
        return f"the weights of {path} are read elsewhere too" if reads > own else None

    def refuse_pair(self, layer: str, unit: Unit) -> str | None:
        """Why the layer and the map's module might run without each other."""
        ours, theirs = (self._owner(f"{self._path}.{p}".strip(".")) for p in (layer, unit.path))
        if ours[0] != theirs[0]:
            return f"{layer} and {unit.path} belong to different modules, which run by themselves"
        if not self._callers.together(layer, unit.path):
            return f"{layer} and {unit.path} do not run in the same call"
        order = (ours[1], theirs[1])
        owner, names = ours[0], list(dict.fromkeys(order))
        if not _comes_first(self._traced, layer, unit):
            names.reverse()
        listed = False
        while True:
            module = self._whole.get_submodule(owner)
            if not isinstance(module, nn.Sequential):
                break
            if not owner:
                return None
            above, name = self._owner(owner)
            owner, names, listed = above, [name], above != owner.rpartition(".")[0]
        place = self._callers.stranger(module, names, self._whole, len(names) == 1, listed)
        if place is not None:
            return f"{place}, which was not traced, may run {' or '.join(names)} by itself"
        return None

    def _owner(self, path: str) -> tuple[str, str]:
        """Of a path in the whole model: the nearest module above that has a forward, and its
        attribute that leads here.
        """
        owner, _, name = path.rpartition(".")
        while owner and type(self._whole.get_submodule(owner)) in (nn.ModuleList, nn.ModuleDict):
            owner, _, name = owner.rpartition(".")
        return owner, name


def _held_aside(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that a module of the model holds in a plain attribute, or a method of which it does:
    whoever reads that may run them.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _REGISTERS:
                continue
            inside = value.values() if isinstance(value, dict) else value
            several = isinstance(value, (list, tuple, set, dict))
            for each in inside if several else (value,):
                owner = each if isinstance(each, nn.Module) else getattr(each, "__self__", None)
                if isinstance(owner, nn.Module) and owner is not module:
                    yield owner


def _comes_first(traced: fx.GraphModule, layer: str, unit: Unit) -> bool:
    for node in traced.graph.nodes:
        if scope_of(node) == layer or scope_of(node).startswith(layer + "."):
            return True
        if node in unit.maps:
            return False
    return True
