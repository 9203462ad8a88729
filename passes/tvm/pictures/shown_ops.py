"""What pictures of a function call its values, and which they leave out."""

from __future__ import annotations

from bnfx.passes.graph import Opaque
from bnfx.passes.tvm.dataflow import Value, ValueForm
from bnfx.passes.tvm.lift import LiftedFlow


def name_ops(lifted: LiftedFlow) -> None:
    """Give each node of the graph its op in a word; call it before the rules run.

    Left out are constants, which their readers show, and the sizes and tuples that a role took its
    numbers and inputs from.
    """
    for node in lifted.graph:
        is_result = node.origin is None and isinstance(node.role, Opaque) and node.role.reads_data
        node.op = "output" if is_result else ""
    for value in reversed(lifted.flow.values):  # of several values of a node, the first names it
        node = lifted.nodes[value]
        idle = value.form in (ValueForm.TUPLE, ValueForm.OTHER)
        if value not in lifted.constants and not (idle and not any(u.op for u in node.users)):
            node.op = _word(value)


def _word(value: Value) -> str:
    if value.form is ValueForm.VARIABLE:
        return "input"
    return (value.op or value.form.name.lower()).rpartition(".")[2]
