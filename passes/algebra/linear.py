"""What every linear operator offers: absorb an affine map, and show its matrix."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bnfx.passes.algebra.evaluate import Array, Evaluator
from bnfx.passes.algebra.expression import Expression, Ones, Shape

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

    @abstractmethod
    def scale_out(self, scale: Expression) -> Expression:
        """The weight of ``diag(scale) L``; ``scale`` has shape ``(out_channels,)``."""

    @abstractmethod
    def rows(self, weight: Array) -> Array:
        """The elements of an evaluated weight as ``(out_channels, -1)``, one row a channel."""

    @abstractmethod
    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one output sample, ``(C_out, *spatial)``, from one input sample's."""

    @abstractmethod
    def taps(self, input_shape: Shape) -> Iterator[Tap]:
        """Every product ``y[out] += weight[tap] * x[in]``: the definition, index by index."""

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
        bias = shift if self.bias is None else scale * self.bias + shift
        if not bias.shape:  # a scalar map on an operator without bias
            bias = bias * Ones((self.out_channels,))
        return replace(self, weight=weight, bias=bias)

    def dense(
        self, input_shape: Shape, evaluate: Evaluator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The test oracle: ``(A, b)`` with ``y.ravel() == A @ x.ravel() + b``.

        Args:
            input_shape: shape of one sample, without the batch: ``(C_in, *spatial)``.
            evaluate: an evaluator over NumPy arrays.

        Returns:
            ``A``, shape ``(prod(output_shape), prod(input_shape))``, and ``b``.
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
