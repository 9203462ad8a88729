"""Networks in two writings: one answer, and as few ops left."""

from __future__ import annotations

import pytest
from relax.graphs import count
from tvm_random import relax_writer
from tvm_random.checks import OTHERS, SOME, check_networks, check_pair
from tvm_random.equivalents import SHAPES

from bnfx.tvm.relax import FoldBatchNorm


def test_rewritten_networks_answer_alike() -> None:
    check_networks(relax_writer, FoldBatchNorm)


def _check(kind: str, linear: str, norm: str) -> None:
    writer = relax_writer.Equivalent(7)
    module = relax_writer.written(
        writer, SHAPES[kind], lambda x: writer.pair(x, kind, linear, norm)
    )
    folded = FoldBatchNorm()(module)
    check_pair(relax_writer, module, folded, kind, (linear, norm), count(folded))


@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left(kind: str) -> None:
    for linear, norm in SOME:
        _check(kind, linear, norm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left_where_both_are_rewritten(kind: str) -> None:
    for linear, norm in OTHERS:
        _check(kind, linear, norm)
