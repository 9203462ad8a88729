"""The neutral graph: the little that rules need to know of any IR.

A node has a role. *Linear* and *Affine* carry their algebra; *Move*, *Concat*, *Add* and *Product*
say how an affine map crosses them; the rest is *Opaque*. Weights are no edges: they are leaves.

A node stands for one value of the IR and never passes another: a rewrite changes its role, puts a
new node in front of it, or takes it out, so that the order of side effects is never disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnfx.passes.algebra import BroadcastAffine, LinearOperator
from bnfx.passes.crossing import Dims, Movement
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import Site


class GraphError(RuntimeError):
    """The neutral graph contradicts itself; a bug of a rule or a lifter."""


@dataclass(frozen=True)
class Linear:
    """A linear operator with weights of ``dtype``.

    ``hides_padding``: the IR's own op pads its input by other than zeros, as no operator does.
    """

    operator: LinearOperator
    dtype: str
    hides_padding: bool = False


@dataclass(frozen=True)
class Affine:
    """An affine map on the node's one input.

    ``lowered`` says that it is emitted as a multiply-add: the IR's own op says another map.
    """

    map: BroadcastAffine
    lowered: bool = False


@dataclass(frozen=True)
class Move:
    """An op of one input that affine maps may cross."""

    movement: Movement


@dataclass(frozen=True)
class Concat:
    """The inputs one after the other along ``axis``, counted from the front."""

    axis: int


@dataclass(frozen=True)
class Add:
    """``factors[0] * inputs[0] + factors[1] * inputs[1]``, both of the node's own shape."""

    factors: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Product:
    """The product of two inputs, both of them data."""


@dataclass(frozen=True)
class Opaque:
    """Anything else. ``reads_data`` is false where only the shape or dtype of inputs is read,
    ``reads_rank`` true where it is the number of dimensions alone, and that is known.
    """

    reads_data: bool = True
    reads_rank: bool = False


Role = Linear | Affine | Move | Concat | Add | Product | Opaque


@dataclass(eq=False)
class Node:
    """One value of the graph.

    Args:
        name: what a report calls it: the module's path where there is one.
        role: see the module's docstring.
        inputs: data inputs.
        shape_inputs: sizes that it reads, and values of which it reads only the shape.
        rank, dtype, shape: of the value, where known.
        origin: the IR's own node; ``None`` for one that a rule put in.
        sites: the user's BatchNorms and affine ops that this node carries out.
        refusals: why the lifter could give it no better role.
        pinned: its memory may be written to later, so no reader may move, or read another value.
        lays_out: the op gives its output another memory layout than its input has.
        region: which stretch of the IR it stands in; another one may have other dtypes (autocast).
        op: the op in a word; ``""`` for what pictures leave out, as parameters.
        place: of two nodes of a graph, the one with the smaller place runs first.
    """

    name: str
    role: Role
    inputs: list[Node]
    shape_inputs: list[Node] = field(default_factory=list)
    rank: int | None = None
    dtype: str | None = None
    origin: Any = None
    sites: tuple[Site, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    shape: Dims | None = None
    pinned: bool = False
    lays_out: bool = False
    region: int = 0
    op: str = ""
    place: tuple[int, ...] = field(default=(), repr=False)
    users: dict[Node, None] = field(default_factory=dict, repr=False)

    def data_users(self) -> list[Node]:
        """The readers of this value's elements (not only of its shape)."""
        readers = (user for user in self.users if self in user.inputs)
        return [u for u in readers if not isinstance(u.role, Opaque) or u.role.reads_data]

    def all_inputs(self) -> list[Node]:
        """All that has to be computed before it."""
        return list(dict.fromkeys([*self.inputs, *self.shape_inputs]))


class Graph:
    """Nodes in the order in which the IR runs them."""

    def __init__(self) -> None:
        self._nodes: dict[Node, None] = {}
        self._count, self._in_order = 0, True
        self._stands_for: dict[Node, Node] = {}  # a node taken out -> what its readers read

    def __iter__(self) -> Iterator[Node]:
        if not self._in_order:
            self._nodes = dict.fromkeys(sorted(self._nodes, key=lambda node: node.place))
            self._in_order = True
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return node in self._nodes

    def append(self, node: Node) -> Node:
        """Add ``node`` at the end; its inputs must be in the graph already."""
        for source in node.all_inputs():
            if source not in self._nodes:
                raise GraphError(f"{node.name} reads {source.name}, which is not in the graph")
            source.users[node] = None
        node.place = (self._count,)
        self._count += 1
        self._nodes[node] = None
        return node

    def resolve(self, node: Node) -> Node:
        """``node``, or what stands for it since it was taken out."""
        passed: list[Node] = []
        while node in self._stands_for:
            passed.append(node)
            node = self._stands_for[node]
        self._stands_for.update(dict.fromkeys(passed, node))  # a short way for the next one
        return node

    def splice_out(self, node: Node) -> None:
        """Take out ``node``, which has one input; its readers read that input instead."""
        (source,) = node.inputs
        for user in node.users:
            for read in (user.inputs, user.shape_inputs):
                read[:] = [source if value is node else value for value in read]
        source.users.update(node.users)
        node.users.clear()
        source.pinned |= node.pinned  # who wrote to the one writes to the other
        self._stands_for[node] = source
        self._erase(node)

    def rewire(self, node: Node, inputs: Sequence[Node]) -> None:
        """Let ``node`` read the data ``inputs``, which stand before it."""
        for source in node.all_inputs():
            source.users.pop(node, None)
        node.inputs = list(inputs)
        for source in node.all_inputs():
            source.users[node] = None

    def drop_unread(self, node: Node) -> None:
        """Take out a node with a role, then its inputs, while only ranks of them are read."""
        stack = [node]
        while stack:
            node = stack.pop()
            unread = all(isinstance(u.role, Opaque) and u.role.reads_rank for u in node.users)
            if isinstance(node.role, Opaque) or node not in self._nodes or not unread:
                continue
            for user in list(node.users):
                self.rewire(user, [])
            self._erase(node)
            stack.extend(node.all_inputs())

    def put_before(self, node: Node, name: str) -> Node:
        """A new node with ``node``'s role and inputs, which ``node`` reads from now on.

        The caller gives ``node`` another role.
        """
        new = Node(name, node.role, [], rank=node.rank, dtype=node.dtype, shape=node.shape)
        self.rewire(new, node.inputs)
        # Places are compared item by item and none is the beginning of another.
        new.place, node.place = (*node.place, 0), (*node.place, 1)
        self._nodes[new] = None
        self._in_order = False
        self.rewire(node, [new])
        return new

    def _erase(self, node: Node) -> None:
        for source in node.all_inputs():
            source.users.pop(node, None)
        del self._nodes[node]

    def verify(self, nodes: Sequence[Node] | None = None) -> None:
        """Check that edges agree in both directions and that inputs come first.

        Args:
            nodes: look at these only (what a rewrite touched); all if ``None``.

        Raises:
            GraphError: naming the edge that is wrong.
        """
        for node in self if nodes is None else nodes:
            for source in node.all_inputs():
                if source not in self._nodes or node not in source.users:
                    raise GraphError(f"the edge {source.name} -> {node.name} is broken")
                if source.place >= node.place:
                    raise GraphError(f"{node.name} runs before its input {source.name}")
            for user in node.users:
                if user not in self._nodes or node not in user.all_inputs():
                    raise GraphError(f"{user.name} is said to read {node.name}, but does not")
            wanted = _ARITY.get(type(node.role))
            if wanted is not None and (have := len(node.inputs)) != wanted:
                raise GraphError(f"{node.name} must have {wanted} data inputs, not {have}")


_ARITY: dict[type, int] = {Linear: 1, Affine: 1, Move: 1, Add: 2, Product: 2}
