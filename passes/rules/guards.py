"""Guards that rules share."""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.algebra import ChannelAffine
from bnfx.passes.graph import Node
from bnfx.passes.numerics import Values
from bnfx.passes.refusals import Code, Refusal


def refuse_pair(before: Node, node: Node) -> Iterator[Refusal]:
    """Reasons why ``node`` cannot be absorbed into ``before``, whatever the two are."""
    readers = before.data_users()
    if len(readers) != 1:
        others = ", ".join(reader.name for reader in readers if reader is not node)
        yield Refusal(Code.OTHER_READERS, f"{before.name} is also read by {others}")
    if before.dtype != node.dtype:
        yield Refusal(Code.DTYPE_CHANGE, f"{before.name} gives {before.dtype}, not {node.dtype}")


def refuse_multiply_add(
    node: Node, affine: ChannelAffine, values: Values | None
) -> Iterator[Refusal]:
    """Reasons why ``affine`` cannot be emitted as a multiply-add in the place of ``node``."""
    if node.rank is None:
        yield Refusal(Code.UNKNOWN_RANK, f"the rank of {node.name}'s output is not known")
    if values is not None:
        yield from values.refuse_affine(affine, multiply_add_dtype(node.dtype))


def multiply_add_dtype(dtype: str | None) -> str:
    """In which dtype a multiply-add keeps its constants: at least float32, whatever it gets."""
    return "float64" if dtype == "float64" else "float32"
