"""Weight gradients are computed while ranks add up sums, where the inner compiler lets us."""

from __future__ import annotations

import functools

from torch import fx

from bnfx.inner.base import GraphPass, Inner
from bnfx.passes.fx.training import late_waits
from bnfx.passes.fx.training.synchronise import Swapped


@functools.cache
def _graph_pass() -> GraphPass | None:
    """The pass as Inductor takes it, and keys its caches by it; ``None`` where it has no such."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class Overlap(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            late_waits.overlap(graph)

        def uuid(self) -> object:
            return get_hash_for_files((late_waits.__file__,))

    return Overlap()


def overlapping(inner: Inner, swapped: Swapped) -> Inner:
    """``inner`` with the pass, for a graph in which BatchNorms share statistics."""
    graph_pass = _graph_pass()
    if not swapped.calls or inner.with_pass is None or graph_pass is None:
        return inner
    return inner.with_pass(graph_pass)
