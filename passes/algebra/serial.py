"""Products of linear operators: ``L2 (L1 x) = (L2 L1) x``.

Of two convolutions one must have a kernel of one tap: then the product's kernel is the other's, and
each of its taps is a product of matrices over the channels between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bnfx.passes.algebra.convolution import Conv
from bnfx.passes.algebra.dense import Dense
from bnfx.passes.algebra.expression import Expression, Shape
from bnfx.passes.algebra.linear import LinearOperator
from bnfx.passes.algebra.parallel import regrouped
from bnfx.passes.algebra.rearrange import MatMul, permute


@dataclass(frozen=True)
class Product:
    """``x -> operator(x) + border``.

    Args:
        operator: its bias is right where no tap meets padding.
        border: ``(out_channels, *output)``, what the inner bias adds where taps may meet padding;
            ``None`` where it is the same everywhere and stands in the operator's bias.
    """

    operator: LinearOperator
    border: Expression | None = None


def composed(outer: LinearOperator, inner: LinearOperator, spatial: Shape | None) -> Product:
    """The operator ``x -> outer(inner(x))``.

    Args:
        spatial: sizes of what stands between the two, needed for a border.

    Raises:
        ValueError: saying why the two have no product of their own kind.
    """
    if inner.out_channels != outer.in_channels:
        raise ValueError(f"{inner.out_channels} channels into {outer.in_channels}")
    border = None
    bias = outer.bias
    if inner.bias is not None:
        if outer.is_uniform:
            response = outer.response(inner.bias, None)
            bias = response if bias is None else response + bias
        elif spatial is None:
            raise ValueError("the size of what stands between them is not known")
        else:
            border = outer.response(inner.bias, spatial)
    if isinstance(outer, Dense) and isinstance(inner, Dense):
        return Product(Dense(MatMul(outer.weight, inner.weight), bias))
    if not isinstance(outer, Conv) or not isinstance(inner, Conv):
        raise ValueError(f"{type(outer).__name__} after {type(inner).__name__}")
    if outer.channels_last != inner.channels_last:
        raise ValueError("channels first after channels last")
    groups = math.gcd(outer.groups, inner.groups)
    one, two = regrouped(inner, groups), regrouped(outer, groups)
    if _is_pointwise(two):
        return Product(replace(_after_pointwise(two, one), bias=bias), border)
    if _is_pointwise(one) and set(one.stride) == {1}:
        return Product(replace(_before_pointwise(two, one), bias=bias), border)
    raise ValueError("neither of the two convolutions has a kernel of one tap")


def _is_pointwise(conv: Conv) -> bool:
    return set(conv.kernel) == {1} and conv.is_uniform


def _after_pointwise(outer: Conv, inner: Conv) -> Conv:
    """``outer`` has one tap: ``W[o, i, k] = sum_m W2[o, m] W1[m, i, k]``; strides multiply."""
    groups, middle = inner.groups, inner.out_channels // inner.groups
    left = outer.weight.reshape(groups, outer.out_channels // groups, middle)
    right = inner.weight.reshape(groups, middle, math.prod(inner.weight.shape[1:]))
    weight = MatMul(left, right).reshape(outer.out_channels, *inner.weight.shape[1:])
    stride = tuple(a * b for a, b in zip(outer.stride, inner.stride, strict=True))
    return replace(inner, weight=weight, bias=None, stride=stride)


def _before_pointwise(outer: Conv, inner: Conv) -> Conv:
    """``inner`` has one tap: ``W[o, i, k] = sum_m W2[o, m, k] W1[m, i]``."""
    groups, middle = inner.groups, inner.out_channels // inner.groups
    out_group, in_group = outer.out_channels // groups, inner.weight.shape[1]
    taps = math.prod(outer.kernel)
    left = permute(outer.weight.reshape(groups, out_group, middle, taps), (0, 1, 3, 2))
    right = inner.weight.reshape(groups, middle, in_group)
    product = MatMul(left.reshape(groups, out_group * taps, middle), right)
    weight = permute(product.reshape(groups, out_group, taps, in_group), (0, 1, 3, 2))
    return replace(
        outer, weight=weight.reshape(outer.out_channels, in_group, *outer.kernel), bias=None
    )
