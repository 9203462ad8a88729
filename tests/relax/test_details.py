"""What pictures call the values of a function, and the numbers of its BatchNorms."""

from __future__ import annotations

from typing import Any

import pytest
from relax.graphs import Expr, Make, pair
from relax.lifted import TYPE, Build, conv, joined, lifted, norm, part, read_by, renamed, split, two

from bnfx.passes.tvm.pictures.norm_values import norm_numbers
from bnfx.passes.tvm.pictures.shown_ops import name_ops


def _ops(build: Build) -> str:
    flow = lifted(build)
    name_ops(flow)
    return " ".join(node.op for node in flow.graph if node.op)


def _cast(make: Make) -> Expr:
    return make.builder.match_cast(conv(make), TYPE)


OPS: dict[str, tuple[Build, str]] = {
    "a call": (conv, "input conv2d copy output"),
    "a BatchNorm": (lambda m: read_by(m, norm, part(0)), "input conv2d batch_norm copy output"),
    "a BatchNorm's parts": (
        lambda m: read_by(m, norm, part(0), part(1)),
        "input conv2d batch_norm copy part part tuple output",
    ),
    "a tuple that is joined": (
        lambda m: read_by(m, two, joined),
        "input conv2d relu concat copy output",
    ),
    "a tuple that is read": (
        lambda m: read_by(m, two, part(0)),
        "input conv2d relu tuple part copy output",
    ),
    "a split": (lambda m: read_by(m, split(2), part(1)), "input conv2d split part copy output"),
    "sizes": (lambda m: m.call("reshape", conv(m), (2, 288)), "input conv2d reshape copy output"),
    "what must run": (_cast, "input conv2d copy copy output"),
    "a constant": (lambda m: m.call("negative", m.constant(3)), "output"),
}


@pytest.mark.parametrize("name", OPS)
def test_ops(name: str) -> None:
    build, expected = OPS[name]
    assert _ops(build) == expected


def _numbers(build: Build) -> list[Any]:
    flow = lifted(build)
    return list(norm_numbers(flow, flow.constants.numbers()).values())


def test_numbers_of_batch_norms() -> None:
    (found,) = _numbers(lambda m: read_by(m, lambda m: norm(m, epsilon=0.5, momentum=0.3), part(0)))
    assert (found.eps, found.momentum) == (0.5, pytest.approx(0.3))
    assert len(found.variance) == len(found.gamma) == len(found.scale) == 8
    for gamma, variance, scale in zip(found.gamma, found.variance, found.scale, strict=True):
        assert scale == pytest.approx(gamma / (variance + 0.5) ** 0.5)
    (found,) = _numbers(lambda m: read_by(m, lambda m: norm(m, scale=False), part(0)))
    assert found.gamma == ()
    (found,) = _numbers(lambda m: read_by(m, lambda m: renamed(m, norm(m)), part(0)))
    assert len(found.gamma) == 8


def test_others_have_no_numbers() -> None:
    assert _numbers(lambda m: read_by(m, lambda m: norm(m, training=True), part(0))) == []
    assert _numbers(lambda m: m.call("multiply", conv(m), m.constant(8, 1, 1))) == []
    assert _numbers(lambda m: pair(conv(m), conv(m))) == []
