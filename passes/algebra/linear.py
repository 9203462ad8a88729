"""What every linear operator offers: absorb an affine map, join another operator, show its matrix.

``L1 + L2`` and ``L2 @ L1`` are defined for each class where that is known: see
:mod:`~bnfx.passes.algebra.parallel` and :mod:`~bnfx.passes.algebra.serial`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bnfx.passes.algebra.expressions.building import broadcast_to, total
from bnfx.passes.algebra.expressions.evaluate import Array, Evaluator
from bnfx.passes.algebra.expressions.expression import Expression, Scalar, Shape
from bnfx.passes.algebra.expressions.rearrange import MatMul, Table, permute

Self = TypeVar("Self", bound="LinearOperator")
# Output index, input index, weight index: one product of the sum that defines the operator.
Tap = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class LinearOperator(ABC):
    """``y = L x + bias`` along one channel axis; ``bias`` may be absent.

    Args:
        weight: the operator's weight, in the layout of its class.
        bias: shape ``(out_channels,)``, or ``None``.

    Raises:
        ValueError: if the shapes of weight, bias and attributes do not fit together.
    """

    weight: Expression
    bias: Expression | None

    def __post_init__(self) -> None:
        if self.bias is not None and self.bias.shape != (self.out_channels,):
            raise ValueError(
                f"bias has shape {self.bias.shape}, but the operator has "
                f"{self.out_channels} output channels"
            )

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Size of the output's channel axis."""

    @property
    @abstractmethod
    def channel_axis(self) -> int:
        """The output's channel axis counted from the end, so negative: the rank may vary."""

    @property
    @abstractmethod
    def spatial_axes(self) -> Shape:
        """The axes whose positions it combines, counted from the end."""

    @abstractmethod
    def scale_out(self, scale: Expression) -> Expression:
        """The weight of ``diag(scale) L``; ``scale`` has shape ``(out_channels,)``."""

    @abstractmethod
    def rows(self, weight: Array) -> Array:
        """The elements of an evaluated weight as ``(out_channels, ...)``, by channel."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Size of the input's channel axis, which is at the output's own place."""

    @abstractmethod
    def scale_in(self, scale: Expression) -> Expression:
        """The weight of ``L diag(scale)``; ``scale`` has shape ``(in_channels,)``."""

    @abstractmethod
    def columns(self, weight: Array) -> Array:
        """The elements of an evaluated weight as ``(in_channels, ...)``, by channel."""

    @abstractmethod
    def tap_sums(self, shift: Expression) -> Expression:
        """``sum_i weight[o, i, k] * shift[i]`` for each tap: shape ``(out_channels, *kernel)``."""

    @abstractmethod
    def reach(self, spatial: Shape) -> tuple[Table, ...]:
        """For each spatial dimension, which tap meets an input of sizes ``spatial``, and where.

        Tables of 0 and 1, shape ``(kernel, output size)``; a 0 is a tap that meets padding.
        """

    @property
    @abstractmethod
    def is_uniform(self) -> bool:
        """Whether each output position meets the input with every tap: there is no border."""

    @abstractmethod
    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one output sample, ``(C_out, *spatial)``, from one input sample's."""

    @abstractmethod
    def taps(self, input_shape: Shape) -> Iterator[Tap]:
        """Every product ``y[out] += weight[tap] * x[in]``: the definition, index by index."""

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """``x -> self(x) + other(x)``.

        Raises:
            ValueError: saying why the two have no sum of their own kind.
        """
        return added(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __matmul__(self, other: LinearOperator) -> Composition:
        """``x -> self(other(x))``.

        Raises:
            ValueError: saying why the two have no product of their own kind.
        """
        return composed(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def then(self: Self, scale: Expression, shift: Expression) -> Self:
        """The operator ``x -> scale * (L x + bias) + shift``, per output channel.

        ``W' = diag(scale) W`` and ``b' = scale * b + shift``. Exact, whatever the stride, padding,
        dilation and groups: each output element belongs to one channel, and padding acts on the
        input. Nothing is divided, so a scale of 0 is as good as any.

        Raises:
            ValueError: if the map has another number of channels than the operator's output.
        """
        for name, expression in (("scale", scale), ("shift", shift)):
            if expression.shape not in ((), (self.out_channels,)):
                raise ValueError(
                    f"{name} has shape {expression.shape}, but the operator has "
                    f"{self.out_channels} output channels"
                )
        weight = self.scale_out(scale) if scale.shape else self.weight * scale
        if shift == Scalar(0.0):
            bias = None if self.bias is None else scale * self.bias
            return replace(self, weight=weight, bias=bias)
        bias = shift if self.bias is None else scale * self.bias + shift
        # one number, if it is a scalar map on an operator without bias
        return replace(self, weight=weight, bias=broadcast_to(bias, (self.out_channels,)))

    def after(self: Self, scale: Expression) -> Self:
        """The operator ``x -> L (scale * x) + bias``, per input channel."""
        return replace(self, weight=self.scale_in(scale) if scale.shape else self.weight * scale)

    def response(self, shift: Expression, spatial: Shape | None) -> Expression:
        """``L`` applied to an input that is ``shift`` everywhere inside, and zero in the padding.

        By :meth:`tap_sums`, ``y[o, p] = sum_k tap_sums[o, k] prod_j reach_j[k_j, p_j]``, which is
        one number a channel where the operator is uniform.

        Args:
            shift: shape ``(in_channels,)`` or ``()``.
            spatial: sizes of the input, needed unless the operator is uniform.

        Returns:
            Shape ``(out_channels,)`` if the operator is uniform, else ``(out_channels, *output)``.
        """
        sums = self.tap_sums(broadcast_to(shift, (self.in_channels,)))
        if self.is_uniform:
            return total(sums, range(1, len(sums.shape)))
        assert spatial is not None, "a border depends on the size of the input"
        for table in self.reach(spatial):
            # The first spatial axis goes to the end and is contracted; at last, all are in order.
            sums = permute(sums, (0, *range(2, len(sums.shape)), 1))
            rows = sums.reshape(math.prod(sums.shape[:-1]), sums.shape[-1])
            sums = MatMul(rows, table).reshape(*sums.shape[:-1], table.shape[1])
        return sums

    def placed(self, response: Expression) -> Expression:
        """What :meth:`response` gives, its axes in the order of the operator's output."""
        if self.channel_axis == -1:
            return permute(response, (*range(1, len(response.shape)), 0))
        return response

    def dense(
        self, input_shape: Shape, evaluate: Evaluator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The test oracle: ``(A, b)`` with ``y.ravel() == A @ x.ravel() + b``.

        Args:
            input_shape: shape of one sample, without the batch: ``(C_in, *spatial)``.
            evaluate: an evaluator over NumPy arrays.
        """
        weight = np.asarray(evaluate(self.weight))
        output_shape = self.output_shape(input_shape)
        matrix = np.zeros((math.prod(output_shape), math.prod(input_shape)))
        for out_index, in_index, weight_index in self.taps(input_shape):
            row = np.ravel_multi_index(out_index, output_shape)
            column = np.ravel_multi_index(in_index, input_shape)
            matrix[row, column] += weight[weight_index]
        bias = np.zeros(self.out_channels) if self.bias is None else evaluate(self.bias)
        return matrix, np.repeat(np.asarray(bias), math.prod(output_shape[1:]))


@dataclass(frozen=True)
class Composition:
    """``outer @ inner``: the operator ``x -> outer(inner(x))``, as far as it is one.

    Args:
        outer, inner: the factors.
        operator: the product. Its bias is right where no tap of ``outer`` meets padding; where one
            does, :meth:`border` tells what the bias of ``inner`` adds.
    """

    outer: LinearOperator
    inner: LinearOperator
    operator: LinearOperator

    @property
    def has_border(self) -> bool:
        """Whether :meth:`border` must be added to what ``operator`` gives."""
        return self.inner.bias is not None and not self.outer.is_uniform

    def border(self, spatial: Shape) -> Expression | None:
        """``(out_channels, *output)``, where sizes ``spatial`` stand between the two, if any."""
        if not self.has_border:
            return None
        assert self.inner.bias is not None
        return self.outer.response(self.inner.bias, spatial)

    def dense(
        self, input_shape: Shape, evaluate: Evaluator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``(A, b)`` as of :meth:`LinearOperator.dense`, the border included."""
        matrix, bias = self.operator.dense(input_shape, evaluate)
        border = self.border(self.inner.output_shape(input_shape)[1:])
        return matrix, bias if border is None else bias + np.asarray(evaluate(border)).ravel()


@singledispatch
def added(one: LinearOperator, other: LinearOperator) -> LinearOperator:
    """``one + other``, by the class of ``one``."""
    raise ValueError(f"{type(one).__name__} beside {type(other).__name__}")


@singledispatch
def composed(outer: LinearOperator, inner: LinearOperator) -> Composition:
    """``outer @ inner``, by the class of ``outer``."""
    raise ValueError(f"{type(outer).__name__} after {type(inner).__name__}")
