"""Networks in two writings: one answer, and as few ops left."""

from __future__ import annotations

import pytest
from graphs import count
from tvm_random import relay_writer
from tvm_random.checks import OTHERS, SOME, check_networks, check_pair
from tvm_random.equivalents import SHAPES

from bnfx.tvm.relay import FoldBatchNorm


def test_rewritten_networks_answer_alike() -> None:
    check_networks(relay_writer, FoldBatchNorm)


def _check(kind: str, linear: str, norm: str) -> None:
    writer = relay_writer.Equivalent(7)
    module = relay_writer.written(SHAPES[kind], lambda x: writer.pair(x, kind, linear, norm))
    folded = FoldBatchNorm()(module)
    check_pair(relay_writer, module, folded, kind, (linear, norm), count(folded))


@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left(kind: str) -> None:
    for linear, norm in SOME:
        _check(kind, linear, norm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left_where_both_are_rewritten(kind: str) -> None:
    for linear, norm in OTHERS:
        _check(kind, linear, norm)
