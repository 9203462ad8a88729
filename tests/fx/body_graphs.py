"""Graphs that run others, made by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fx.traced_nets import Noted, X
from torch import fx, nn
from torch._higher_order_ops import invoke_subgraph as _invoke  # noqa: F401  (registers it)
from torch._higher_order_ops import map as _map  # noqa: F401
from torch._higher_order_ops import scan as _scan  # noqa: F401
from torch._higher_order_ops import while_loop as _while  # noqa: F401

ops = torch.ops.higher_order
NAMES = ("w", "mean", "var", "gamma", "beta")
Body = Callable[..., tuple[Any, ...]]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(4, generator=generator, dtype=torch.float64) + 0.5 for _ in NAMES[1:]]
    weight = torch.randn(4, 4, 1, 1, generator=generator, dtype=torch.float64)
    return dict(zip(NAMES, (weight, *drawn), strict=True))


def norm(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    return (F.batch_norm(F.conv2d(x, w), mean, var, gamma, beta, False, 0.1, 1e-5),)


def plain(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    return (F.conv2d(x, w).tanh(),)


def writing(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    mean.add_(1)
    return norm(x, w, mean, var, gamma, beta)


def graph_of(body: Body) -> fx.GraphModule:
    module = fx.symbolic_trace(body)
    Noted(module).run(X, *(value.clone() for value in weights().values()))
    return module


class Outer:
    """A graph that runs ``bodies``; its weights are inputs or attributes."""

    def __init__(self, bodies: dict[str, fx.GraphModule], sets: int, as_inputs: bool) -> None:
        self.root = nn.Module()
        for name, body in bodies.items():
            setattr(self.root, name, body)
        self.graph = fx.Graph()
        self.tensors: dict[str, torch.Tensor] = {}
        self.sets: list[list[fx.Node]] = []
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = X
        for at in range(sets):
            self.sets.append([])
            for name, value in weights(at).items():
                if as_inputs:
                    node = self.graph.placeholder(f"{name}{at}")
                    self.tensors[node.name] = value
                else:
                    self.root.register_buffer(f"{name}{at}", value)
                    node = self.graph.get_attr(f"{name}{at}")
                self.sets[-1].append(node)

    def run(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """The first output of an op, whose bodies are named in ``args`` by ``"self.NAME"``."""
        node = self.graph.call_function(target, self.named(args), kwargs)
        return self.graph.call_function(operator.getitem, (node, 0))

    def named(self, args: Sequence[Any]) -> tuple[Any, ...]:
        prefix = "self."
        return tuple(
            self.graph.get_attr(each.removeprefix(prefix))
            if isinstance(each, str) and each.startswith(prefix)
            else each
            for each in args
        )

    def module(self, *outputs: fx.Node) -> fx.GraphModule:
        self.graph.output(outputs)
        return fx.GraphModule(self.root, self.graph)
