"""Places the ops of a graph in layers, each below what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bnfx.passes.details import Op

COLUMN, ROW = 200.0, 66.0  # distances of neighbours, from centre to centre
# An edge over more layers is an arc beside the graph. DenseNet has hundreds of them side by side,
# which would make the graph as wide as it is long.
_FAR = 14
_UNIT = 200.0


@dataclass(frozen=True)
class Edge:
    """An edge from ``source`` to ``target``, through ``bends``; or far around the graph."""

    source: int
    target: int
    bends: tuple[tuple[float, float], ...] = ()
    is_far: bool = False


@dataclass(frozen=True)
class Placed:
    """Centres of the ops by identity, the edges, and the size of it all."""

    centres: dict[int, tuple[float, float]] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    width: float = 0.0
    height: float = 0.0


def place(ops: Sequence[Op]) -> Placed:
    """Where each op is drawn."""
    from fast_sugiyama import from_edges

    near, far = _edges(ops)
    connected = {end for edge in near for end in edge}
    centres: dict[int, tuple[float, float]] = {}
    bends: dict[int, tuple[float, float]] = {}
    links: dict[int, list[int]] = {}
    left, height = 0.0, 0.0
    layouts = from_edges(
        near, vertex_spacing=_UNIT, minimum_length=1, dummy_vertices=True, dummy_size=0.1
    )
    for positions, width, tall, drawn in layouts if near else ():
        lowest = min(x for _, (x, _) in positions)
        for vertex, (x, y) in positions:
            at = (left + (x - lowest) * COLUMN / _UNIT, (tall - y) * ROW / _UNIT)
            (centres if vertex in connected else bends)[vertex] = at
        for source, target in drawn or ():
            links.setdefault(source, []).append(target)
        left += width * COLUMN / _UNIT + COLUMN
        height = max(height, tall * ROW / _UNIT)
    for op in ops:
        if op.identity not in connected:  # it reads nothing that is shown, and nobody reads it
            centres[op.identity] = (left, 0.0)
            left += COLUMN
    edges = [*_routed(links, centres, bends), *(Edge(*ends, is_far=True) for ends in far)]
    return Placed(centres, tuple(edges), max(left - COLUMN, 0.0), height)


def _edges(ops: Sequence[Op]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Edges that decide on the layers, and those that reach over many of them."""
    layers: dict[int, int] = {}
    near: list[tuple[int, int]] = []
    far: list[tuple[int, int]] = []
    for op in ops:
        inputs = [source for source in op.inputs if source in layers and source != op.identity]
        layers[op.identity] = 1 + max((layers[source] for source in inputs), default=-1)
        deepest = max(inputs, key=layers.__getitem__, default=None)
        for source in inputs:
            is_near = source == deepest or layers[op.identity] - layers[source] <= _FAR
            (near if is_near else far).append((source, op.identity))
    return near, far


def _routed(
    links: dict[int, list[int]],
    centres: dict[int, tuple[float, float]],
    bends: dict[int, tuple[float, float]],
) -> list[Edge]:
    """Edges between ops; those over several layers are chains of bends."""
    edges = []
    for source in centres:
        for target in links.get(source, ()):
            through = []
            while target in bends:
                through.append(bends[target])
                (target,) = links[target]
            edges.append(Edge(source, target, tuple(through)))
    return edges
