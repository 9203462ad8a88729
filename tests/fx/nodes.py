"""Nodes of a graph, made one by one."""

from __future__ import annotations

from typing import Any

from torch import fx


def call_node(graph: fx.Graph, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call of a method, by its name, or of a function."""
    op = "call_method" if isinstance(target, str) else "call_function"
    return graph.create_node(op, target, args, kwargs)
