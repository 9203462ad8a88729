"""TVM as the inner compiler of the ``torch.compile`` backend.

``torch.compile(model, backend="bnfx", options={"inner": "tvm", "inner_options": {...}})``.

AOTAutograd makes a graph without effects out of what Dynamo captured: it writes to inputs itself,
behind the graph, and gives back views of inputs as views. For each combination of sizes that the
graph is called with, :mod:`bnfx.inner.tvm.specialise` fixes them, :mod:`bnfx.inner.tvm.stages` says
what TVM runs (by the table in :mod:`bnfx.tvm.ops`) and what PyTorch, and :mod:`bnfx.inner.tvm.part`
builds TVM's parts and holds their first answers against PyTorch's. ADR 023.
"""

from __future__ import annotations

from bnfx.inner.tvm.compiler import inner
from bnfx.inner.tvm.placement import Placement

__all__ = ["Placement", "inner"]
