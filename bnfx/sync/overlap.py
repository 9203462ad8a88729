"""Weight gradients are computed while ranks add up sums, where the inner compiler lets us."""

from __future__ import annotations

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

from bnfx.inner import Inner
from bnfx.passes.fx import overlap
from bnfx.passes.fx.synchronise import Swapped


class _Overlap(CustomGraphPass):
    """:func:`bnfx.passes.fx.overlap.overlap`, as Inductor takes it and keys its caches by it."""

    def __call__(self, graph: fx.Graph) -> None:
        overlap.overlap(graph)

    def uuid(self) -> object:
        return get_hash_for_files((overlap.__file__,))


def overlapping(inner: Inner, swapped: Swapped) -> Inner:
    """``inner`` with the pass, for a graph in which BatchNorms share statistics."""
    if not swapped.calls or inner.with_pass is None:
        return inner
    return inner.with_pass(_Overlap())
