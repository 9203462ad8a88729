"""Prints docs/tvm_relay_ops.md: what TVM's own pipeline leaves of each graph, and what bnfx leaves.

`make docs-relay` writes the page; the battery holds each row against what it counts.
"""

from __future__ import annotations

from pathlib import Path

import cases_conv
import cases_merge
import cases_move
import cases_next
import cases_pool
from graphs import Case, affine_ops, optimised

from bnfx.tvm.relay import FoldBatchNorm

PAGE = Path(__file__).parents[2] / "docs" / "tvm_relay_ops.md"
CASES: list[Case] = [
    *cases_conv.CASES,
    *cases_next.CASES,
    *cases_move.CASES,
    *cases_pool.CASES,
    *cases_merge.CASES,
]
HEAD = """# What is left of small Relay graphs

Elementwise affine ops (`add`, `multiply`, `subtract`, `divide`, `negative`, `nn.bias_add`) after
`relay.optimize` at level 3, for `llvm`: of the graph as it is, and of the graph that bnfx folded
first. A convolution's bias is one. The graphs stand in `tests/relay`, the page is written by
`make docs-relay`, and the tests hold it against what they count. TVM 0.16 (hhb-tvm 3.2.3).

| graph | TVM | bnfx |
| --- | --: | --: |"""


def row(name: str, default: int, ours: int) -> str:
    """One line of the table."""
    return f"| {name} | {default} | {ours} |"


if __name__ == "__main__":
    print(HEAD)
    for case in CASES:
        module = case.module()
        folded = FoldBatchNorm()(module)
        print(row(case.name, affine_ops(optimised(module)), affine_ops(optimised(folded))))
