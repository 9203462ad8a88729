"""Hypothesis strategies: random parameters, affine maps and operators.

All numbers are small integers, on which float64 arithmetic is exact: the laws are compared with
``==``, and no tolerance can hide a bug.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bnfx.passes.algebra import (
    ChannelAffine,
    Conv,
    ConvTranspose,
    Dense,
    Evaluator,
    LinearOperator,
    Source,
    same_padding,
)

Array = npt.NDArray[Any]
Draw = Callable[[Any], Any]


@dataclass
class Parameters:
    """Sources and their values; ``evaluate`` computes an expression over them."""

    draw: Draw
    arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))

    def source(self, *shape: int) -> Source:
        """A new parameter of signed integers; about one in seven is exactly 0."""
        name = f"p{len(self.arrays)}"
        self.arrays[name] = self.integers(*shape)
        return Source(name, shape, "float64")

    def integers(self, *shape: int) -> Array:
        return self.random.integers(-3, 4, shape).astype(np.float64)

    def affine(self, channels: int) -> ChannelAffine:
        """A map of ``channels`` channels; scale and shift may each be one number for all."""
        scale, shift = (self.draw(st.sampled_from([(channels,), ()])) for _ in range(2))
        return ChannelAffine(self.source(*scale), self.source(*shift))

    @property
    def evaluate(self) -> Evaluator:
        return Evaluator(lambda source: self.arrays[source.name], np.zeros(()))


@dataclass
class Case:
    """An operator, its parameters, and the shape of one sample that it accepts."""

    operator: LinearOperator
    input_shape: tuple[int, ...]
    parameters: Parameters

    def dense(self, operator: LinearOperator | None = None) -> tuple[Array, Array]:
        """The matrix and the shift vector of ``operator``, by default of the case's own."""
        chosen = self.operator if operator is None else operator
        return chosen.dense(self.input_shape, self.parameters.evaluate)


@st.composite
def parameters(draw: Draw) -> Parameters:
    """An empty set of parameters, with random values to come."""
    return Parameters(draw)


@st.composite
def cases(draw: Draw, *kinds: str) -> Case:
    """A random operator of these ``kinds`` (``"dense"``, ``"conv"``, ``"transposed"``).

    Any rank, groups, stride, dilation and padding, with or without bias.
    """
    found = Parameters(draw)
    kind = draw(st.sampled_from(kinds))
    if kind == "dense":
        out, features = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        bias = found.source(out) if draw(st.booleans()) else None
        return Case(Dense(found.source(out, features), bias), (features,), found)

    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    in_group, out_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, 4 - rank if rank > 1 else 4), each(1, 3), each(1, 2)
    reach = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    bias = found.source(groups * out_group) if draw(st.booleans()) else None
    if kind == "conv":
        weight = found.source(groups * out_group, in_group, *kernel)
        sides = draw(st.sampled_from(["symmetric", "asymmetric", "same"]))
        before = each(0, 2)
        after = before if sides == "symmetric" else each(0, 2)
        padding = tuple(zip(before, after, strict=True))
        if sides == "same":
            padding = same_padding(kernel, dilation)
        sizes = tuple(
            max(1, r + 1 - sum(pads)) + extra
            for r, pads, extra in zip(reach, padding, each(0, 2), strict=True)
        )
        conv = Conv(weight, bias, stride, padding, dilation, groups)
        return Case(conv, (groups * in_group, *sizes), found)

    weight = found.source(groups * in_group, out_group, *kernel)
    sizes = each(1, 3)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    full = tuple((size - 1) * s + r + 1 for size, s, r in zip(sizes, stride, reach, strict=True))
    before = tuple(draw(st.integers(0, min(2, (length - 1) // 2))) for length in full)
    after = before
    if draw(st.booleans()):
        after = tuple(draw(st.integers(0, min(2, (length - 1) // 2))) for length in full)
    padding = tuple(zip(before, after, strict=True))
    transposed = ConvTranspose(weight, bias, stride, padding, extra, dilation, groups)
    return Case(transposed, (groups * in_group, *sizes), found)
