"""Guards and steps that rules share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Graph, Move, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules import cost
from bnfx.passes.values import Values


def refuse_pair(before: Node, node: Node) -> Iterator[Refusal]:
    """Reasons why ``node`` cannot be absorbed into ``before``, whatever the two are."""
    readers = before.data_users()
    if len(readers) != 1:
        yield also_read(before, [reader for reader in readers if reader is not node])
    elif before.pinned:
        yield Refusal(Code.MUTATED_IN_GRAPH, f"the graph may write to the output of {before.name}")
    if before.dtype != node.dtype:
        yield Refusal(Code.DTYPE_CHANGE, f"{before.name} gives {before.dtype}, not {node.dtype}")


def also_read(value: Node, readers: Sequence[Node]) -> Refusal:
    """Others read ``value`` too; two of them are named."""
    names = ", ".join(reader.name for reader in readers[:2])
    if len(readers) > 2:
        names += f" and {len(readers) - 2} more"
    return Refusal(Code.OTHER_READERS, f"{value.name} is also read by {names}")


def refuse_multiply_add(
    node: Node, affine: BroadcastAffine, values: Values | None
) -> Iterator[Refusal]:
    """Reasons why ``affine`` cannot be emitted as a multiply-add in the place of ``node``."""
    if node.rank is None and affine.axes:
        yield Refusal(Code.UNKNOWN_RANK, f"the rank of {node.name}'s output is not known")
    if values is not None:
        yield from values.refuse_affine(affine, multiply_add_dtype(node.dtype))


def multiply_add_dtype(dtype: str | None) -> str:
    """In which dtype a multiply-add keeps its constants: at least float32, whatever it gets."""
    return "float64" if dtype == "float64" else "float32"


def merging_pays(target: Node, node: Node, merged: BroadcastAffine) -> bool:
    """Whether one affine node that carries out ``merged`` is less work than the two.

    Arithmetic is one op a step already (``x / 2 + 1``); a BatchNorm is more, and so is arithmetic
    with constants that the graph computes at each call.
    """

    assert isinstance(target.role, Affine) and isinstance(node.role, Affine)
    maps = (target.role.map, node.role.map)
    if any(site.kind == "batch_norm" for site in (*target.sites, *node.sites)):
        return True
    if any(affine.is_computed for affine in maps):
        return True
    return cost.steps(merged) < sum(map(cost.steps, maps))


def behind_identities(value: Node, reader: Node) -> Node:
    """What ``value`` is a copy of, as long as nobody else reads the copies."""
    while _is_copy(value) and value.data_users() == [reader]:
        value, reader = value.inputs[0], value
    return value


def original(value: Node) -> Node:
    """What ``value`` is a copy of, whoever else reads that."""
    while _is_copy(value):
        value = value.inputs[0]
    return value


def _is_copy(value: Node) -> bool:
    return value.role == Move(Identity()) and not value.pinned


def take_out(graph: Graph, node: Node) -> None:
    """Take an affine node, whose map others carry out by now, out of the graph.

    Where the op laid its output out anew, what is left of it does.
    """
    if node.lays_out:
        node.role = Move(Identity(contiguous=True))
    else:
        graph.splice_out(node)
