"""Small graphs: a BatchNorm before linear operators. C == H == W == 6 wherever it can mislead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from battery.conv import Case, Fn, seq
from torch import nn

from bnfx import Code

NEXT = ("fold-affine-into-next-linear",)
MOVE = ("move-affine",)
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _zero_gamma(norm: nn.Module) -> nn.Module:
    """A BatchNorm whose scale is 0 in half of its channels, whatever randomises it."""

    class HalfZero(type(norm)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight * self.mask, self.bias
            )

    half = HalfZero(norm.num_features)
    half.register_buffer("mask", torch.arange(norm.num_features) % 2 * 1.0)
    return half


def _unpadded() -> list[Case]:
    cases = []
    variants = {
        "plain": ((6, 4, 3), {}),
        "no-bias": ((6, 6, 3), {"bias": False}),
        "grouped": ((6, 4, 3), {"groups": 2}),
        "depthwise": ((6, 6, 3), {"groups": 6}),
        "multiplier": ((6, 12, 2), {"groups": 6}),
        "strided": ((6, 4, 3), {"stride": 2}),
        "dilated": ((6, 4, 2), {"dilation": 2}),
        "pointwise": ((6, 6, 1), {}),
    }
    for rank in (1, 2, 3):
        shape = (2, 6, *(6, 6, 5)[:rank])
        for name, (sizes, options) in variants.items():
            model = seq(NORMS[rank](6), CONVS[rank](*sizes, **options))
            cases.append(Case(f"bn-conv{rank}d-{name}", model, shape, rules=NEXT, ops=1))
        for mode in ("reflect", "replicate", "circular"):
            model = seq(NORMS[rank](6), CONVS[rank](6, 4, 3, padding=1, padding_mode=mode))
            cases.append(Case(f"bn-conv{rank}d-{mode}", model, shape))
        model = seq(NORMS[rank](6), TRANSPOSED[rank](6, 6, 1))
        cases.append(Case(f"bn-transposed{rank}d-pointwise", model, shape, rules=NEXT, ops=1))
        model = seq(_zero_gamma(NORMS[rank](6)), CONVS[rank](6, 4, 3))
        cases.append(Case(f"bn-conv{rank}d-gamma-0", model, shape, rules=NEXT, ops=1))
    return cases


def _padded() -> list[Case]:
    """The border is one addition, where that costs less than the BatchNorm."""
    cases = []
    for rank in (1, 2, 3):
        shape = (2, 6, *(6, 6, 5)[:rank])
        for name, options in {
            "padded": {"padding": 1},
            "padded-strided": {"padding": 1, "stride": 2},
            "padded-dilated": {"padding": 2, "dilation": 2},
            "padded-grouped": {"padding": 1, "groups": 2},
            "same": {"padding": "same"},
        }.items():
            model = seq(NORMS[rank](6), CONVS[rank](6, 6, 3, **options))
            cases.append(
                Case(f"bn-conv{rank}d-{name}", model, shape, rules=NEXT, ops=2, border=True)
            )
        model = seq(NORMS[rank](6), TRANSPOSED[rank](6, 6, 3, padding=1))
        cases.append(Case(f"bn-transposed{rank}d", model, shape, rules=NEXT, ops=2, border=True))
        model = seq(_zero_gamma(NORMS[rank](6)), CONVS[rank](6, 6, 3, padding=1))
        cases.append(
            Case(f"bn-conv{rank}d-padded-gamma-0", model, shape, rules=NEXT, ops=2, border=True)
        )
    even = seq(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 2, padding="same", dilation=3))
    wide = seq(nn.BatchNorm2d(6), nn.Conv2d(6, 60, 3, padding=1))
    scale = seq(Fn(lambda m, x: x * m.s.value, s=_Scale(6)), nn.Conv2d(6, 4, 3, padding=1))
    pad = seq(nn.BatchNorm2d(6), nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(6, 6, 3))
    both = seq(nn.BatchNorm2d(6), nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(6, 6, 3, padding=1))
    ones = Fn(
        lambda m, x: m.conv(F.pad(m.bn(x), (1, 1, 1, 1), value=1.0)),
        bn=nn.BatchNorm2d(6),
        conv=nn.Conv2d(6, 4, 3),
    )
    reflect = seq(nn.BatchNorm2d(6), nn.ReflectionPad2d(2), nn.Conv2d(6, 4, 3))
    shape = (2, 6, 6, 6)
    lowered = {"folded": 0, "lowered": 1}
    before = Code.NO_LINEAR_BEFORE
    return [
        *cases,
        Case("bn-conv2d-same-even", even, shape, rules=NEXT, ops=2, border=True),
        Case(
            "bn-conv2d-border-costs-more", wide, shape, **lowered, codes=(before, Code.COSTS_MORE)
        ),
        Case("scale-conv2d-padded", scale, shape, 0, ops=1),
        Case("bn-pad-conv2d", pad, shape, rules=MOVE, ops=3, border=True),
        Case("bn-pad-conv2d-padded", both, shape, rules=MOVE, ops=3, border=True),
        Case(
            "bn-pad-ones-conv2d",
            ones,
            shape,
            **lowered,
            codes=(before, Code.NONZERO_SHIFT, Code.PADDING_VALUE),
        ),
        Case("bn-reflect-conv2d", reflect, shape, rules=MOVE, ops=2),
    ]


class _Scale(nn.Module):
    """A signed channel scale; a parameter that the graph reads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.linspace(-1.0, 2.0, channels).reshape(channels, 1, 1))


def _linears() -> list[Case]:
    norm = nn.BatchNorm1d
    two = Fn(
        lambda m, x: (lambda y: m.a(y) + torch.sigmoid(m.b(y)))(m.bn(x)),
        bn=nn.BatchNorm2d(6),
        a=nn.Conv2d(6, 4, 3),
        b=nn.Conv2d(6, 4, 3),
    )
    raw = Fn(
        lambda m, x: (lambda y: m.a(y).sum() + y)(m.bn(x)),
        bn=nn.BatchNorm2d(6),
        a=nn.Conv2d(6, 4, 3),
    )
    both = seq(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3))
    last = Fn(lambda m, x: m.lin(m.bn(x)), bn=nn.BatchNorm2d(6), lin=nn.Linear(6, 4))
    written = Fn(
        lambda m, x: (lambda x, y: (x.mul_(2), m.conv(y) + x.sum())[1])(x * 3, m.bn(x * 3)),
        bn=nn.BatchNorm2d(6),
        conv=nn.Conv2d(6, 4, 3),
    )
    source_written = Fn(
        lambda m, x: (lambda z: (lambda y: (z.mul_(2), m.conv(y) + z.sum())[1])(m.bn(z)))(x + 1),
        bn=nn.BatchNorm2d(6),
        conv=nn.Conv2d(6, 4, 3),
    )
    lowered = {"folded": 0, "lowered": 1}
    before = Code.NO_LINEAR_BEFORE
    axis = (before, Code.AXIS_MISMATCH)
    changed = (Code.AXIS_MISMATCH, Code.OTHER_READERS, Code.MUTATED_IN_GRAPH)
    return [
        Case("bn-linear", seq(norm(6), nn.Linear(6, 6)), (6, 6), rules=NEXT, ops=1),
        Case("bn-linear-no-bias", seq(norm(6), nn.Linear(6, 4, bias=False)), (3, 6), ops=1),
        Case("bn-linear-last-axis", last, (2, 6, 6, 6), **lowered, codes=axis),
        Case("bn-linear-3d", seq(norm(6), nn.Linear(6, 4)), (2, 6, 6), **lowered, codes=axis),
        Case("bn-two-convs", two, (2, 6, 6, 6), rules=NEXT, ops=4),
        Case("bn-conv-and-raw", raw, (2, 6, 6, 6), **lowered, codes=(before,)),
        Case("conv-bn-conv", both, (2, 6, 8, 8), rules=("fold-affine-into-linear",), ops=2),
        Case("bn-conv-other-written", written, (2, 6, 6, 6), ops=5),
        Case("bn-conv-source-written", source_written, (2, 6, 6, 6), **lowered, codes=changed),
    ]


CASES = [*_unpadded(), *_padded(), *_linears()]
