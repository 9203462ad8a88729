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
    BroadcastAffine,
    ChannelAffine,
    Conv,
    ConvTranspose,
    Dense,
    Evaluator,
    Expression,
    LinearOperator,
    Scalar,
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

    def broadcast(self, dims: tuple[int, ...], *fixed: int) -> BroadcastAffine:
        """A map on a tensor of shape ``dims`` that varies along any axes but the ``fixed`` ones."""
        free = sorted(set(range(len(dims))) - set(fixed))

        def side() -> Source:
            axes = self.draw(st.sets(st.sampled_from(free))) if free else set()
            shape = [size if axis in axes else 1 for axis, size in enumerate(dims)]
            while shape and shape[-1] == 1 and self.draw(st.booleans()):
                shape.pop()
            return self.source(*shape)

        scale, shift = side(), side()
        kind = self.draw(st.sampled_from(["both", "scale", "shift"]))
        return BroadcastAffine(
            Scalar(1.0) if kind == "shift" else scale, Scalar(0.0) if kind == "scale" else shift
        )

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


def applied(affine: BroadcastAffine, x: Array, evaluate: Evaluator) -> Array:
    """The map of an array, axis by axis from the front, as NumPy computes it."""

    def side(expression: Expression) -> Array:
        value = evaluate(expression)
        assert value.shape == expression.shape
        return np.reshape(value, (*value.shape, *(1,) * (x.ndim - value.ndim)))

    y = side(affine.scale) * x + side(affine.shift)
    assert y.shape == x.shape
    return y


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


@dataclass
class Pair:
    """Two operators, and the shape of one sample that the first (or both) accept."""

    one: LinearOperator
    other: LinearOperator
    input_shape: tuple[int, ...]
    parameters: Parameters

    def dense(self, operator: LinearOperator) -> tuple[Array, Array]:
        return operator.dense(self.input_shape, self.parameters.evaluate)


@st.composite
def parallel_convolutions(draw: Draw) -> Pair:
    """Two convolutions on one input that have a sum: parts of one joint kernel."""
    found = Parameters(draw)
    rank = draw(st.integers(1, 2))
    groups = [draw(st.sampled_from([1, 2, 4])) for _ in range(2)]
    channels = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 8]))
    stride = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    kernels: list[list[int]] = [[], []]
    paddings: list[list[tuple[int, int]]] = [[], []]
    dilations: list[list[int]] = [[], []]
    sizes = []
    for _ in range(rank):
        joint, step = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        before, after = (draw(st.integers(0, 2)) + step * (joint - 1) for _ in range(2))
        slack = before + after - step * (joint - 1)
        for side in range(2):
            start = draw(st.integers(0, joint - 1))
            kernel = draw(st.integers(1, joint - start))
            first = before - step * start
            kernels[side].append(kernel)
            paddings[side].append((first, slack + step * (kernel - 1) - first))
            # One tap has no step, so its dilation means nothing.
            dilations[side].append(step if kernel > 1 else draw(st.integers(1, 3)))
        sizes.append(draw(st.integers(1, 3)))
    operators = [
        Conv(
            found.source(channels[1], channels[0] // groups[side], *kernels[side]),
            found.source(channels[1]) if draw(st.booleans()) else None,
            stride,
            tuple(paddings[side]),
            tuple(dilations[side]),
            groups[side],
        )
        for side in range(2)
    ]
    return Pair(*operators, (channels[0], *sizes), found)


@st.composite
def serial_convolutions(draw: Draw) -> Pair:
    """A convolution and one after it that have a product: one of them has a kernel of one tap."""
    found = Parameters(draw)
    rank, outer_is_pointwise = draw(st.integers(1, 2)), draw(st.booleans())

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = [draw(st.sampled_from([1, 2, 4])) for _ in range(2)]
    channels = [draw(st.sampled_from([4, 8])) for _ in range(3)]
    sizes = each(4, 5)
    operators = []
    for side in range(2):
        pointwise = outer_is_pointwise == (side == 1)
        kernel, dilation = each(1, 1) if pointwise else each(1, 2), each(1, 2)
        padding = tuple(zip(each(0, 1), each(0, 1), strict=True))
        stride = each(1, 2)
        if pointwise:
            padding = ((0, 0),) * rank
            stride = stride if outer_is_pointwise else (1,) * rank
        weight = found.source(channels[side + 1], channels[side] // groups[side], *kernel)
        bias = found.source(channels[side + 1]) if draw(st.booleans()) else None
        operators.append(Conv(weight, bias, stride, padding, dilation, groups[side]))
    return Pair(*operators, (channels[0], *sizes), found)
