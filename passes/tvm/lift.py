"""A function of either IR -> neutral graph: each value gets a role; what is not known is opaque."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, Source
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Graph, Move, Node, Opaque
from bnfx.passes.lifting.lifted import LiftedGraph
from bnfx.passes.lifting.slices import split_part
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.tvm.arithmetic_roles import ARITHMETIC, read_arithmetic
from bnfx.passes.tvm.constant_arrays import Constants
from bnfx.passes.tvm.dataflow import Dataflow, Value, ValueForm
from bnfx.passes.tvm.dialect import Called, Dialect
from bnfx.passes.tvm.movements import read_movement
from bnfx.passes.tvm.operators import read_batch_norm, read_operator, with_bias
from bnfx.passes.tvm.sites import Names, site_of
from bnfx.passes.tvm.tuples import is_first_part_alone, release
from bnfx.passes.tvm.weight_layouts import WeightLayout

# Only the shape and dtype of their input matter.
_METADATA = frozenset({"shape_of", "zeros_like", "ones_like", "size", "ndarray_size"})


@dataclass(frozen=True)
class LiftedFlow(LiftedGraph[Value]):
    """A lifted function.

    Args:
        flow: its values, in order.
        constants: what is known of them when compiling.
        calls: the calls of linear operators.
        stored: how these store their weights.
    """

    flow: Dataflow
    constants: Constants
    calls: Mapping[Node, Value]
    stored: Mapping[Node, WeightLayout]


def lift(flow: Dataflow, dialect: Dialect, prefix: str = "") -> LiftedFlow:
    """Give each value its role.

    Args:
        flow: of a function whose types are known.
        dialect: of its IR.
        prefix: of the names in the report.
    """
    lifter = _Lifter(flow, dialect, prefix)
    lifter.run()
    roles = {node: node.role for node in lifter.graph}
    known = (lifter.constants, lifter.calls, lifter.stored)
    return LiftedFlow(lifter.graph, lifter.nodes, roles, flow, *known)


class _Lifter:
    def __init__(self, flow: Dataflow, dialect: Dialect, prefix: str) -> None:
        self.flow = flow
        self.dialect = dialect
        self.constants = Constants(dialect)
        self.graph = Graph()
        self.nodes: dict[Value, Node] = {}
        self.stored: dict[Node, WeightLayout] = {}
        self.calls: dict[Node, Value] = {}
        self._once: dict[Value, Node] = {}  # what dead code reads of what is needed
        self._shapes = dialect.shapes()
        self._names = Names(prefix)

    def run(self) -> None:
        for value in self.flow.values:
            if self._joins(value):
                continue
            node = self._start(value)
            written = value in self.flow.pinned or self.flow.must_run(value)
            if written or not self.constants.add(value):
                self._give_role(value, node)
            self.nodes[value] = self.graph.append(node)
        last = [self.nodes[value] for value in self.flow.values if self.flow.must_run(value)]
        self.graph.append(Node("the result", Opaque(), [self.nodes[self.flow.result]]))
        if last:  # it stays, though nobody looks at what it gives
            read = list(dict.fromkeys(last))
            self.graph.append(Node("the run", Opaque(reads_data=False), read))

    def _joins(self, value: Value) -> bool:
        """Whether it is that of an earlier node: one part of a tuple, or a sum with a bias."""
        if not value.args or not self._as_needed(value, value.args[0]):
            return False
        if is_first_part_alone(value.args[0], self.flow):
            node = self.nodes[value] = self.nodes[value.args[0]]
            node.pinned |= value in self.flow.pinned
            return True
        return value.op in self.dialect.biases and self._adds_bias(value)

    def _as_needed(self, value: Value, arg: Value) -> bool:
        """Whether both or none of the two are dead."""
        return (value in self.flow.dead) == (arg in self.flow.dead)

    def _adds_bias(self, value: Value) -> bool:
        """Take a constant bias into the operator before it, where nobody else reads that."""
        for before, bias in (value.args, value.args[::-1]):
            node = self.nodes[before]
            # What writes to it would read it.
            alone = before.readers == [value] and before is not self.flow.result
            if not alone or self.calls.get(node) is not before or not self._is_like(value, node):
                continue
            role = with_bias(value, node, self.constants.source(bias, f"{node.name}.bias"))
            if role is not None:
                node.role = role
                node.pinned |= value in self.flow.pinned
                self.nodes[value] = node
                return True
        return False

    def _is_like(self, value: Value, node: Node) -> bool:
        """Whether it has the type of the node's value."""
        shape = self._shapes.of(value, value.kind, [node])
        return (shape, self.dialect.dtype_of(value.kind)) == (node.shape, node.dtype)

    def _start(self, value: Value) -> Node:
        """An opaque node, with what its type says."""
        inputs = [self._read(value, arg) for arg in value.args]
        kind = value.kind
        if is_first_part_alone(value, self.flow):
            kind = kind.fields[0]
        return Node(
            name=self._names.of(value),
            role=Opaque(value.op not in _METADATA),
            inputs=inputs,
            rank=self.dialect.rank_of(kind),
            dtype=self.dialect.dtype_of(kind),
            origin=value,
            shape=self._shapes.of(value, kind, inputs),
            pinned=value in self.flow.pinned,
        )

    def _read(self, value: Value, arg: Value) -> Node:
        """The node of what ``value`` reads; dead code is no reader of what is needed."""
        node = self.nodes[arg]
        if self._as_needed(value, arg):
            return node
        if arg not in self._once:
            known = {"rank": node.rank, "dtype": node.dtype, "shape": node.shape}
            stub = Node(f"what {node.name} was", Opaque(), [], origin=arg, **known)  # type: ignore[arg-type]
            self._once[arg] = self.graph.append(stub)
        return self._once[arg]

    def _give_role(self, value: Value, node: Node) -> None:
        if value.form is ValueForm.PART:
            self._give_part(value, node)
        elif value.form is ValueForm.COPY:
            self._give_copy(node)
        elif value.op == "nn.batch_norm":
            self._give_batch_norm(value, node)
        elif value.op in self.dialect.linear:
            self._give_linear(value, node)
        elif value.op in ARITHMETIC:
            self._give_arithmetic(value, node)
        else:
            self._give_movement(value, node)

    def _lookup(self, node: Node) -> Callable[[Value, str], Source | Refusal]:
        return lambda value, what: self.constants.source(value, f"{node.name}.{what}")

    def _give_linear(self, value: Value, node: Node) -> None:
        source = node.inputs[0]
        lookup = self._lookup(node)
        read, node.refusals = read_operator(value, node, source, lookup, self.dialect)
        if read is not None:
            node.role, node.inputs = read.linear, [source]
            self.stored[node], self.calls[node] = read.stored, value

    def _give_batch_norm(self, value: Value, node: Node) -> None:
        node.sites = (site_of(value.expr, node.name),)
        if not is_first_part_alone(value, self.flow):
            why = "its moving statistics are read too"
            node.refusals = (Refusal(Code.UNSUPPORTED_FORM, why),)
            return
        affine, node.refusals = read_batch_norm(value, self._lookup(node))
        if affine is None:
            return
        if node.rank is None:
            node.refusals = (Refusal(Code.UNKNOWN_RANK, "its rank is not known"),)
            return
        axis = int(value.attrs.axis) % node.rank
        node.role = Affine(BroadcastAffine.of_channels(affine, axis))
        node.inputs = node.inputs[:1]

    def _give_arithmetic(self, value: Value, node: Node) -> None:
        def constant(position: int) -> Source | None:
            known = self.constants.source(value.args[position], f"{node.name}.operand")
            return known if isinstance(known, Source) else None

        read = read_arithmetic(value, node, node.inputs, constant)
        if read is None:
            return
        node.role, node.inputs = read.role, read.inputs
        if isinstance(read.role, Affine):
            node.sites = (site_of(value.expr, node.name, "affine"),)

    def _give_copy(self, node: Node) -> None:
        """Another name for a value; ``match_cast`` may also name its sizes."""
        (before,) = node.inputs
        known = before.shape is not None and node.shape is not None
        if known and (before.dtype, before.rank) == (node.dtype, node.rank):
            node.role = Move(Identity())

    def _give_movement(self, value: Value, node: Node) -> None:
        joined = value.args[0] if value.op == self.dialect.concat else None
        if joined is not None and joined.form is not ValueForm.TUPLE:
            return
        before = node.inputs[:1]
        if joined is not None:
            before = [self._read(value, arg) for arg in joined.args]
        elif any(self._is_data(arg) for arg in value.args[1:]):
            return
        called = Called(value, lambda position: self.constants.value(value.args[position]))
        role = read_movement(called, node, before, self.dialect)
        if role is not None:
            node.role, node.inputs = role, before
            if joined is not None:
                release(joined, value, node, self.nodes, self.flow)

    def _is_data(self, value: Value) -> bool:
        kinds = getattr(value.kind, "fields", (value.kind,))
        tensors = any(self.dialect.dtype_of(kind) is not None for kind in kinds)
        return tensors and value not in self.constants

    def _give_part(self, value: Value, node: Node) -> None:
        (whole,) = value.args
        source = self._read(value, whole.args[0]) if whole.op == "split" else None
        if source is None or source.shape is None:
            return
        axis = int(whole.attrs.axis) % len(source.shape)
        sizes = [self.dialect.sizes_of(kind) for kind in whole.kind.fields]
        along = [None if known is None else known[axis] for known in sizes]
        select = split_part(axis, value.index, along, source.shape[axis])
        if select is not None:
            node.role, node.inputs = Move(select), [source]
            release(whole, value, node, self.nodes, self.flow)
