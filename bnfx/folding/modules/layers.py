"""Where the weights lie that a node of a chain applies."""

from __future__ import annotations

from torch import fx, nn

from bnfx.folding.modules.affine_modules import scope_of
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import known_class
from bnfx.passes.fx.parameters.sources import ATTRIBUTE_PREFIX


class Layers:
    """What binds the nodes of a traced chain to its modules."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self._traced = traced
        self._scopes = {node.name: scope_of(node) for node in traced.graph.nodes}

    def home_of(self, source: str) -> str:
        """The path of the module that a source of an expression belongs to, or is computed in."""
        if source.startswith(ATTRIBUTE_PREFIX):
            return source.removeprefix(ATTRIBUTE_PREFIX).rpartition(".")[0]
        return self._scopes.get(source, "")

    def places(self, node: fx.Node) -> tuple[str, str, str]:
        """The layer whose weight the node applies, and the names of weight and bias there."""
        if node.op == "call_module":
            return str(node.target), "weight", "bias"
        call = read_call(node)
        assert isinstance(call, Call)
        owner, _, name = str(call.arguments["weight"].target).rpartition(".")
        bias = call.arguments["bias"]
        return owner, name, "bias" if bias is None else str(bias.target).rpartition(".")[2]

    def refuse(self, node: fx.Node, needs_bias: bool) -> str | None:
        """Why the weights that the node applies cannot be rewritten where they lie."""
        if node.op != "call_module":
            call = read_call(node)
            weight = call.arguments.get("weight") if isinstance(call, Call) else None
            if not isinstance(weight, fx.Node) or weight.op != "get_attr":
                return "the weight that it is folded into is no layer's own"
        path, weight_name, bias = self.places(node)
        layer = self._traced.get_submodule(path)
        if not isinstance(layer._parameters.get(weight_name), nn.Parameter):
            return f"the weight of {type(layer).__name__} is computed, not stored"
        reads = [
            n
            for n in self._traced.graph.find_nodes(op="get_attr")
            if n.target in (f"{path}.{weight_name}", f"{path}.{bias}")
        ]
        if any(user is not node for n in reads for user in n.users):
            return "the weights that it is folded into are read elsewhere too"
        if needs_bias and layer._parameters.get(bias) is None:
            applied = node.op == "call_module" and known_class(layer) is not None
            if bias not in layer._parameters or not applied:
                return "the layer that it is folded into has no room for a bias"
        return None
