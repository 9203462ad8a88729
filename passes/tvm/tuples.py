"""Tuples: who reads one as a whole, and who a part of it alone."""

from __future__ import annotations

from collections.abc import Mapping

from bnfx.passes.graph import Node, Opaque
from bnfx.passes.tvm.dataflow import Dataflow, Value, ValueForm

# They give a tuple, of which one part alone is of interest.
_FIRST_PART = frozenset({"nn.batch_norm", "nn.dropout"})


def is_first_part_alone(value: Value, flow: Dataflow) -> bool:
    """Whether it is a tuple of which nobody reads more than the first part."""
    while value.form is ValueForm.COPY:
        (value,) = value.args
    if value.op not in _FIRST_PART:
        return False
    parts: list[Value] = []
    wholes = [value]
    for whole in wholes:
        if whole is flow.result:
            return False
        for reader in whole.readers:
            (wholes if reader.form is ValueForm.COPY else parts).append(reader)
    firsts = all(reader.form is ValueForm.PART and reader.index == 0 for reader in parts)
    return firsts and bool(parts) and flow.stand_together(parts)


def release(
    whole: Value, last: Value, node: Node, nodes: Mapping[Value, Node], flow: Dataflow
) -> None:
    """Count a tuple as no reader, once all its readers read its parts by themselves.

    Args:
        last, node: the reader that got its role just now, and its node.
        nodes: of those that have one already.
    """
    for reader in whole.readers:
        known = node if reader is last else nodes.get(reader)
        if known is None or isinstance(known.role, Opaque):
            return
    if whole is not flow.result and whole not in flow.pinned:
        nodes[whole].role = Opaque(reads_data=False)
