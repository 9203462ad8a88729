"""Small graphs in which an op reads the shape of another value: that is no reading of elements."""

from __future__ import annotations

from collections.abc import Callable

import torch
from battery.conv import Case, Fn
from torch import nn

MOVE = ("move-affine",)
TOKENS, IMAGES = (2, 3, 6), (2, 6, 5, 4)


def _flat(m: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return m.bn(y.flatten(0, 1))


def _tokens(forward: Callable[..., torch.Tensor]) -> nn.Module:
    return Fn(lambda m, x: forward(m, m.lin(x)), lin=nn.Linear(6, 6), bn=nn.BatchNorm1d(6))


def _of_folded(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The shape is that of a BatchNorm which is folded itself."""
    y = m.bn2(m.a(x))
    return m.bn(m.b(x).flatten(2)).reshape_as(y)


def _of_merged(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The shape is that of a branch which is merged with another."""
    a = m.a(x)
    return m.bn((a + m.b(x)).flatten(2)).view_as(a)


def _conv() -> nn.Module:
    return nn.Conv2d(6, 6, 1)


CASES = [
    Case("flat-bn-reshape-as", _tokens(lambda m, y: _flat(m, y).reshape_as(y)), TOKENS, rules=MOVE),
    Case("flat-bn-view-as", _tokens(lambda m, y: _flat(m, y).view_as(y)), TOKENS, rules=MOVE),
    Case(
        "view-of-sizes-bn",
        _tokens(lambda m, y: m.bn(y.view(y.size(0) * y.shape[1], -1))),
        TOKENS,
        rules=MOVE,
    ),
    Case(
        "shape-of-folded",
        Fn(_of_folded, a=_conv(), b=_conv(), bn=nn.BatchNorm1d(6), bn2=nn.BatchNorm2d(6)),
        IMAGES,
        2,
        rules=MOVE,
    ),
    Case(
        "shape-of-merged",
        Fn(_of_merged, a=_conv(), b=nn.Conv2d(6, 6, 3, padding=1), bn=nn.BatchNorm1d(6)),
        IMAGES,
        rules=("merge-parallel-linear", *MOVE),
    ),
]
