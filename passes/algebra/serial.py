"""Products of linear operators: ``L2 (L1 x) = (L2 L1) x``.

Of two convolutions one must have a kernel of one tap: then the product's kernel is the other's, and
each of its taps is a product of matrices over the channels between.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bnfx.passes.algebra.convolution import Conv
from bnfx.passes.algebra.dense import Dense
from bnfx.passes.algebra.expression import Expression
from bnfx.passes.algebra.linear import Composition, LinearOperator, composed
from bnfx.passes.algebra.parallel import regrouped
from bnfx.passes.algebra.rearrange import MatMul, permute


@composed.register
def _(outer: Dense, inner: LinearOperator) -> Composition:
    bias = _bias(outer, inner)
    if not isinstance(inner, Dense):
        raise ValueError(f"Dense after {type(inner).__name__}")
    return Composition(outer, inner, Dense(MatMul(outer.weight, inner.weight), bias))


@composed.register
def _(outer: Conv, inner: LinearOperator) -> Composition:
    bias = _bias(outer, inner)
    if not isinstance(inner, Conv):
        raise ValueError(f"Conv after {type(inner).__name__}")
    if outer.channels_last != inner.channels_last:
        raise ValueError("channels first after channels last")
    groups = math.gcd(outer.groups, inner.groups)
    one, two = regrouped(inner, groups), regrouped(outer, groups)
    if _is_pointwise(two):
        product = _after_pointwise(two, one)
    elif _is_pointwise(one) and set(one.stride) == {1}:
        product = _before_pointwise(two, one)
    else:
        raise ValueError("neither of the two convolutions has a kernel of one tap")
    return Composition(outer, inner, replace(product, bias=bias))


def _bias(outer: LinearOperator, inner: LinearOperator) -> Expression | None:
    """``W2 b1 + b2``; but a border says ``W2 b1`` where ``outer`` pads."""
    if inner.out_channels != outer.in_channels:
        raise ValueError(f"{inner.out_channels} channels into {outer.in_channels}")
    if inner.bias is None or not outer.is_uniform:
        return outer.bias
    response = outer.response(inner.bias, None)
    return response if outer.bias is None else response + outer.bias


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
