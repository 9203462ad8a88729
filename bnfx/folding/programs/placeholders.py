"""The inputs of an exported graph: their names, their order, their fake values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx

from bnfx.torch_private import detect_fake_mode


def name_placeholders(graph: fx.Graph, names: Iterable[str]) -> None:
    """Give inputs their names back: fx renames one that is called ``input`` when it is copied."""
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=False):
        node.name = name


def order_placeholders(graph: fx.Graph, names: Sequence[str]) -> None:
    """Put the placeholders of these names in this order, in front of all other nodes."""
    nodes = {node.name: node for node in graph.find_nodes(op="placeholder")}
    previous: fx.Node | None = None
    for name in names:
        if previous is None:
            first = next(iter(graph.nodes))
            if first is not nodes[name]:
                first.prepend(nodes[name])
        else:
            previous.append(nodes[name])
        previous = nodes[name]


def describe(graph: fx.Graph, new: Mapping[str, torch.Tensor]) -> None:
    """Give every node without one its fake value, which saving a program asks for."""
    mode = detect_fake_mode([node.meta.get("val") for node in graph.nodes])
    for node in graph.nodes:
        if node.name in new and mode is not None:
            node.meta["val"] = mode.from_tensor(new[node.name], static_shapes=True)
        elif node.op == "call_function" and "val" not in node.meta:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            with torch.no_grad():
                if mode is None:
                    node.meta["val"] = node.target(*args, **kwargs)
                else:
                    with mode:
                        node.meta["val"] = node.target(*args, **kwargs)
