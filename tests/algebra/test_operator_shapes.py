"""Operators whose shapes do not fit together are refused, and the message says which."""

from __future__ import annotations

from typing import Any

import pytest

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, Source


def weight(*shape: int) -> Source:
    return Source("w", shape, "float32")


ONE = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
MORE = {**ONE, "output_padding": (0,)}
BAD = [
    (lambda: Dense(weight(3), None), r"dense weight is \(out, in\), not \(3,\)"),
    (lambda: Dense(weight(3, 2), weight(2)), r"bias has shape \(2,\), .* 3 output channels"),
    (lambda: Dense(weight(3, 2), weight(3, 1)), r"bias has shape \(3, 1\)"),
    (lambda: Conv(weight(3, 2), None, (), (), ()), r"conv weight is .*, not \(3, 2\)"),
    (lambda: Conv(weight(3, 2, 1), weight(2), **ONE), r"bias has shape \(2,\), .* 3 output"),
    (lambda: Conv(weight(3, 2, 1), None, **ONE, groups=2), "3 channels cannot form 2 groups"),
    (lambda: Conv(weight(3, 2, 1), None, **ONE, groups=0), "3 channels cannot form 0 groups"),
    (lambda: Conv(weight(3, 2, 1), None, **{**ONE, "stride": (0,)}), "stride .* is not positive"),
    (
        lambda: Conv(weight(3, 2, 1, 1), None, (1, 1), ((0, 0), 1), (1, 1)),
        "padding .* is not .before, after.",
    ),
    (lambda: ConvTranspose(weight(3, 2), None, (), (), (), ()), r"not \(3, 2\)"),
    (lambda: ConvTranspose(weight(3, 2, 1), weight(3), **MORE), r"bias has shape \(3,\), .* 2 out"),
    (lambda: ConvTranspose(weight(3, 2, 1), None, **MORE, groups=2), "3 channels cannot form 2"),
    (lambda: ConvTranspose(weight(3, 2, 1), None, **MORE, groups=0), "3 channels cannot form 0"),
]
BAD += [
    (
        lambda sides=sides: Conv(weight(3, 2, 1), None, (1,), (sides,), (1,)),
        "padding .* is not .before, after.",
    )
    for sides in (1, (1,), (1, 1, 1), [1, 1])
]
BAD += [
    (lambda name=name: Conv(weight(3, 2, 1), None, **{**ONE, name: (1, 1)}), f"{name} .* 1 dim")
    for name in ONE
]
BAD += [
    (
        lambda name=name: ConvTranspose(weight(3, 2, 1), None, **{**MORE, name: (1, 1)}),
        f"{name} .* 1 dim",
    )
    for name in MORE
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_operators_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["scale", "shift"])
def test_a_map_of_other_channels_is_refused_by_name(name: str) -> None:
    parts = {"scale": weight(), "shift": weight(), name: weight(2)}
    with pytest.raises(ValueError, match=rf"{name} has shape \(2,\), .* 3 output channels"):
        Dense(weight(3, 2), None).then(**parts)


@pytest.mark.parametrize("other", [1, None, "conv"])
def test_an_operator_joins_operators_alone(other: Any) -> None:
    """``NotImplemented`` is given, so that Python says which types do not fit."""
    dense = Dense(weight(3, 3), None)
    for join in (lambda: dense + other, lambda: dense @ other):
        with pytest.raises(TypeError, match="unsupported operand"):
            join()
