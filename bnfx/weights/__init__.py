"""Folded weights that are never stale.

A graph whose weights are folded ahead of time answers with them until a parameter changes, so each
call looks whether one did: :class:`~bnfx.weights.changes.snapshot.Snapshot` is that look. What
then happens depends on the form that the weights have in the compiled body:

- *live*: inputs, filled anew; the body stays. On CPU under Inductor they are inputs in the layout
  that oneDNN packs weights into (:mod:`bnfx.inner.packed.packing`), elsewhere plain tensors.
- *frozen*: constants. The live body serves until the weights have settled, then they are frozen
  again, a bounded number of times (:mod:`bnfx.weights.freezing`).
- *traced*: the graph computes them at each call, so nothing can be stale
  (:mod:`bnfx.weights.traced`).
"""

from bnfx.weights.changes.snapshot import Snapshot
from bnfx.weights.changes.unmarked_writes import refresh

__all__ = ["Snapshot", "refresh"]
