"""The neutral graph: the little that rules need to know of any IR.

Each node has a role. *Linear* and *Affine* carry their algebra; everything else is *Opaque*,
including every op with an argument that the lifter did not know. Only data edges are edges:
weights are :class:`~bnfx.passes.algebra.Source` leaves of the algebra.

Nodes keep their place: a rewrite changes a node's role, or erases it, so that the order of side
effects in the IR is never disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnfx.passes.algebra import ChannelAffine, LinearOperator
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import Site


class GraphError(RuntimeError):
    """The neutral graph contradicts itself; a bug of a rule or a lifter."""


@dataclass(frozen=True)
class Linear:
    """A linear operator with weights of ``dtype``."""

    operator: LinearOperator
    dtype: str


@dataclass(frozen=True)
class Affine:
    """A channel affine map along ``axis`` (counted from the front).

    ``lowered`` says that it is emitted as a multiply-add: the IR's own op does not say this map, or
    is not wanted.
    """

    map: ChannelAffine
    axis: int
    lowered: bool = False


@dataclass(frozen=True)
class Opaque:
    """Anything else. ``reads_data`` is false where only the shape or dtype of inputs is read."""

    reads_data: bool = True


Role = Linear | Affine | Opaque


@dataclass(eq=False)
class Node:
    """One value of the graph.

    Args:
        name: what a report calls it: the module's path where there is one.
        role: see the module's docstring.
        inputs: data inputs.
        rank: number of dimensions, where known.
        dtype: the value's dtype, where known.
        origin: the IR's own node.
        sites: the BatchNorms and affine ops of the user's that this node carries out.
        refusals: why the lifter could give it no better role.
    """

    name: str
    role: Role
    inputs: list[Node]
    rank: int | None = None
    dtype: str | None = None
    origin: Any = None
    sites: tuple[Site, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    users: dict[Node, None] = field(default_factory=dict, repr=False)

    def data_users(self) -> list[Node]:
        """The readers of this value's elements (not only of its shape)."""
        return [
            user for user in self.users if not isinstance(user.role, Opaque) or user.role.reads_data
        ]


class Graph:
    """Nodes in the order in which the IR runs them."""

    def __init__(self) -> None:
        self._nodes: dict[Node, None] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return node in self._nodes

    def append(self, node: Node) -> Node:
        """Add ``node`` at the end; its inputs must be in the graph already."""
        for source in node.inputs:
            if source not in self._nodes:
                raise GraphError(f"{node.name} reads {source.name}, which is not in the graph")
            source.users[node] = None
        self._nodes[node] = None
        return node

    def splice_out(self, node: Node) -> None:
        """Erase ``node``, which has one input; its readers read that input instead."""
        (source,) = node.inputs
        for user in node.users:
            user.inputs = [source if value is node else value for value in user.inputs]
            source.users[user] = None
        del source.users[node], self._nodes[node]
        node.users.clear()

    def verify(self, nodes: Sequence[Node] | None = None) -> None:
        """Check that edges agree in both directions and that inputs come first.

        Args:
            nodes: look at these only (what a rewrite touched); all, in order, if ``None``.

        Raises:
            GraphError: naming the edge that is wrong.
        """
        seen: set[Node] = set()
        for node in self._nodes if nodes is None else nodes:
            for source in node.inputs:
                if source not in self._nodes or node not in source.users:
                    raise GraphError(f"the edge {source.name} -> {node.name} is broken")
                if nodes is None and source not in seen:
                    raise GraphError(f"{node.name} runs before its input {source.name}")
            for user in node.users:
                if user not in self._nodes or node not in user.inputs:
                    raise GraphError(f"{user.name} is said to read {node.name}, but does not")
            if isinstance(node.role, (Linear, Affine)) and len(node.inputs) != 1:
                raise GraphError(f"{node.name} must have one data input, not {len(node.inputs)}")
            seen.add(node)
