"""Small nets whose layers are leaves, traced with what each value is, and folded as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support import randomise
from torch import fx, nn

from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.rewrite import Rewritten, rewrite

X = torch.randn(2, 4, 6, 5, dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.holder = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())  # a leaf, and so is its part
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


class Noted(fx.Interpreter):
    """Notes each value where a tracer that knows shapes would."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, (torch.Tensor, tuple)):
            n.meta["val"] = value
        return value


def traced(run: Callable[..., Any], **more: Any) -> tuple[Net, fx.GraphModule]:
    net = randomise(Net(run)).double().eval()
    for name, value in more.items():
        setattr(net, name, value)
    module = fx.GraphModule(net, _Tracer().trace(net))
    with torch.no_grad():
        Noted(module).run(X.clone())
    return net, module


def folded(module: fx.GraphModule) -> Rewritten:
    rewritten = rewrite(module, {}, form="attributes")
    weights = rewritten.evaluate() or []
    pairs = zip(rewritten.slots, weights, strict=True)
    fill(rewritten.module, {slot.name: weight for slot, weight in pairs})
    return rewritten


def called(module: fx.GraphModule) -> str:
    names = [getattr(node.target, "__name__", node.target) for node in module.graph.nodes]
    return " ".join(map(str, names))


def parameters(module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Takes what the graph reads in as inputs, in front of its own."""
    found: dict[str, torch.Tensor] = {}
    first = next(iter(module.graph.nodes))
    for node in module.graph.find_nodes(op="get_attr"):
        with module.graph.inserting_before(first):
            taken = module.graph.placeholder(f"p_{node.name}")
        value: Any = module
        for each in str(node.target).split("."):
            value = getattr(value, each)
        found[taken.name] = taken.meta["val"] = value
        node.replace_all_uses_with(taken)
        module.graph.erase_node(node)
    module.recompile()
    return found
