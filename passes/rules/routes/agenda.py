"""The ops that a walk has yet to meet, in topological order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from bnfx.passes.graph import Node


class Agenda:
    """Hands out nodes by their place in the graph, each once, while more of them are added.

    Args:
        backward: the last of the graph first. What is added must then stand before, else behind,
            the node that was handed out last.
    """

    def __init__(self, backward: bool = False) -> None:
        self._sign = -1 if backward else 1
        self._heap: list[tuple[tuple[int, ...], Node]] = []
        self._known: set[Node] = set()

    def add(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self._known:
                self._known.add(node)
                key = tuple(self._sign * item for item in node.place)
                heapq.heappush(self._heap, (key, node))

    def __iter__(self) -> Iterator[Node]:
        while self._heap:
            yield heapq.heappop(self._heap)[1]
