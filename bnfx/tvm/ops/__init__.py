"""What TVM may run: a table of ATen operators, each written in Relax here, and tested.

TVM's own importer of PyTorch graphs gets many of them wrong without a word (docs/tvm_relax.md), so
an operator goes to TVM only by a row of this table, and only with arguments and dtypes that the
row's tests cover; everything else runs in PyTorch. ``tests/relax/test_ops.py`` runs each row over a
grid, and fails for a row without one.
"""

from __future__ import annotations

from bnfx.tvm.ops import gather, largest, moves, norms, pointwise, pools, products
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row

__all__ = ["TABLE", "Lowering", "OpCall", "Row"]

TABLE: dict[str, Row] = {
    row.op: row
    for rows in (
        pointwise.ROWS,
        moves.ROWS,
        products.ROWS,
        pools.ROWS,
        norms.ROWS,
        gather.ROWS,
        largest.ROWS,
    )
    for row in rows
}
