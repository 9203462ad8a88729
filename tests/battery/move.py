"""Small graphs: a BatchNorm with something between it and the operator that absorbs it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from battery.arithmetic import Channels
from battery.conv import Case, Fn
from torch import nn

from bnfx import Code

SHAPE = (2, 6, 6, 6)
MOVE = ("move-affine",)
LOWERED = {"folded": 0, "lowered": 1}


class Positive(nn.BatchNorm2d):
    """A BatchNorm whose scale is positive, whatever randomises its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gamma = self.weight.abs()
        return F.batch_norm(x, self.running_mean, self.running_var, gamma, self.bias)


class Signed(nn.BatchNorm2d):
    """A BatchNorm with scales of both signs, whatever randomises its weight."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("sign", torch.arange(channels) % 2 * 2.0 - 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gamma = self.weight.abs() * self.sign
        return F.batch_norm(x, self.running_mean, self.running_var, gamma, self.bias)


Between = Callable[[torch.Tensor], torch.Tensor]


def back(between: Between, norm: nn.Module | None = None, channels: int = 6) -> nn.Module:
    """conv, between, BatchNorm."""
    return Fn(
        lambda m, x: m.bn(between(m.conv(x))),
        conv=nn.Conv2d(6, channels, 1),
        bn=nn.BatchNorm2d(6) if norm is None else norm,
    )


def on(
    between: Between, norm: nn.Module | None = None, reader: nn.Module | None = None
) -> nn.Module:
    """BatchNorm, between, conv."""
    return Fn(
        lambda m, x: m.reader(between(m.bn(x))),
        bn=nn.BatchNorm2d(6) if norm is None else norm,
        reader=nn.Conv2d(6, 4, 1) if reader is None else reader,
    )


_BOTH_WAYS: dict[str, Between] = {
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "contiguous": lambda y: y.contiguous(),
    "clone": lambda y: y.clone(),
    "avg-pool": lambda y: F.avg_pool2d(y, 2),
    "avg-pool-ceil": lambda y: F.avg_pool2d(y, 4, 3, ceil_mode=True),
    "avg-pool-not-counting": lambda y: F.avg_pool2d(y, 3, padding=1, count_include_pad=False),
    "adaptive-avg": lambda y: F.adaptive_avg_pool2d(y, (2, 3)),
    "mean-keepdim": lambda y: y.mean((2, 3), keepdim=True),
    "nearest": lambda y: F.interpolate(y, scale_factor=2),
    "bilinear": lambda y: F.interpolate(y, size=(9, 7), mode="bilinear", align_corners=False),
    "bicubic": lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"),
    "reflect": lambda y: F.pad(y, (1, 2, 0, 1), mode="reflect"),
    "crop": lambda y: F.pad(y, (-1, -1)),
    "slice-space": lambda y: y[:, :, 1:4],
    "transposed-twice": lambda y: y.transpose(1, 3).permute(0, 3, 2, 1),
    "transposed-space": lambda y: y.transpose(2, 3),
    "squeezed": lambda y: y.unsqueeze(2).squeeze(2),
    "flattened-space": lambda y: y.flatten(2).unsqueeze(-1),
    "channel-shuffle": lambda y: torch.channel_shuffle(y, 3),
    "channel-shuffle-by-hand": lambda y: y.view(2, 2, 3, 6, 6).transpose(1, 2).reshape(2, 6, 6, 6),
}


def _both_ways() -> list[Case]:
    cases = []
    for name, between in _BOTH_WAYS.items():
        cases.append(Case(f"conv-{name}-bn", back(between), SHAPE, rules=MOVE))
        cases.append(Case(f"bn-{name}-conv", on(between), SHAPE, rules=MOVE))
    return cases


def _by_sign() -> list[Case]:
    """A maximum keeps what does not decrease; an activation keeps a positive scale alone."""
    maxima: dict[str, Between] = {
        "max-pool": lambda y: F.max_pool2d(y, 2),
        "max-pool-padded": lambda y: F.max_pool2d(y, 3, 2, 1),
        "adaptive-max": lambda y: F.adaptive_max_pool2d(y, 2),
        "amax": lambda y: y.amax((2, 3), keepdim=True),
    }
    back_code, on_code = Code.NEGATIVE_SCALE, Code.NO_LINEAR_BEFORE
    cases = []
    for name, between in maxima.items():
        cases += [
            Case(f"conv-{name}-positive", back(between, Positive(6)), SHAPE, rules=MOVE, ops=2),
            Case(f"positive-{name}-conv", on(between, Positive(6)), SHAPE, rules=MOVE, ops=2),
            Case(
                f"conv-{name}-signed",
                back(between, Signed(6)),
                SHAPE,
                **LOWERED,
                codes=(back_code,),
                ops=4,
            ),
            Case(
                f"signed-{name}-conv",
                on(between, Signed(6)),
                SHAPE,
                **LOWERED,
                codes=(on_code, Code.NEGATIVE_SCALE),
                ops=4,
            ),
        ]

    def scaled(function: Between, factor: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        return Fn(
            lambda m, x: m.last(function(m.first(x)) * factor(m.c.v)),
            first=nn.Conv2d(6, 6, 1),
            last=nn.Sigmoid(),
            c=Channels(6, 1, 1),
        )

    leaky = lambda y: F.leaky_relu(y, 0.1)  # noqa: E731
    cases += [
        Case("conv-relu-positive-scale", scaled(F.relu, torch.abs), SHAPE, 0, rules=MOVE, ops=3),
        Case("conv-leaky-positive-scale", scaled(leaky, torch.abs), SHAPE, 0, rules=MOVE, ops=3),
        Case("conv-relu-signed-scale", scaled(F.relu, torch.clone), SHAPE, 0, ops=5),
        Case(
            "conv-relu-positive-bn",
            back(F.relu, Positive(6)),
            SHAPE,
            **LOWERED,
            codes=(Code.NONZERO_SHIFT,),
        ),
        Case("conv-relu6-bn", back(F.relu6), SHAPE, **LOWERED, codes=(Code.NO_LINEAR_BEFORE,)),
    ]
    return cases


def _one_way() -> list[Case]:
    """Ops that a map crosses in one direction only, or that change its axis or length."""
    linear = nn.Linear
    dense_first = Fn(
        lambda m, x: m.bn(m.lin(x).transpose(1, 2)).transpose(1, 2),
        lin=linear(6, 6),
        bn=nn.BatchNorm1d(6),
    )
    flat_tokens = Fn(
        lambda m, x: m.bn(m.lin(x).flatten(0, 1)).reshape(2, 6, 6),
        lin=linear(6, 6),
        bn=nn.BatchNorm1d(6),
    )
    pad_counts = (Code.NONZERO_SHIFT,)
    pool = lambda y: F.avg_pool2d(y, 3, padding=1)  # noqa: E731
    heads = Fn(
        lambda m, x: (lambda t: torch.tanh(t[0] * 0.5 + t[1]) * t[2])(
            m.lin(x).reshape(2, 6, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        ),
        lin=linear(6, 18),
    )
    return [
        Case("linear-transpose-bn", dense_first, (2, 6, 6), rules=MOVE),
        Case("linear-flatten-bn", flat_tokens, (2, 6, 6), rules=MOVE, ops=3),
        Case(
            "bn-flatten-linear",
            on(lambda y: y.flatten(1), None, linear(216, 4)),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-mean-linear",
            on(lambda y: y.mean((2, 3)), None, linear(6, 4)),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-pool-flatten-linear",
            on(lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1), None, linear(6, 4)),
            SHAPE,
            rules=MOVE,
            ops=3,
        ),
        Case(
            "bn-permute-linear",
            on(lambda y: y.permute(0, 2, 3, 1), None, linear(6, 4)),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-movedim-linear",
            on(lambda y: y.movedim(1, -1), None, linear(6, 4)),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-moveaxis-of-two-conv",
            on(lambda y: torch.moveaxis(y, (2, -1), (0, 1)).moveaxis((0, 1), (3, 2))),
            SHAPE,
            rules=MOVE,
            ops=3,
        ),
        Case(
            "bn-t-twice-linear",
            Fn(
                lambda m, x: m.lin(m.bn(x).t().t()),
                bn=nn.BatchNorm1d(6),
                lin=linear(6, 4),
            ),
            (3, 6),
            rules=MOVE,
            ops=3,
        ),
        Case(
            "conv-pixel-shuffle-bn",
            back(lambda y: F.pixel_shuffle(y, 2), None, 24),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-pixel-unshuffle-conv",
            on(lambda y: F.pixel_unshuffle(y, 2), None, nn.Conv2d(24, 4, 1)),
            SHAPE,
            rules=MOVE,
            ops=2,
        ),
        Case(
            "bn-pixel-shuffle-conv",
            Fn(
                lambda m, x: m.c(F.pixel_shuffle(m.bn(x), 2)),
                bn=nn.BatchNorm2d(8),
                c=nn.Conv2d(2, 4, 1),
            ),
            (2, 8, 6, 6),
            **LOWERED,
            codes=(Code.NO_LINEAR_BEFORE, Code.AXIS_MISMATCH),
        ),
        Case(
            "conv-flatten-bn1d",
            Fn(
                lambda m, x: m.bn(m.conv(x).flatten(1)),
                conv=nn.Conv2d(6, 6, 1),
                bn=nn.BatchNorm1d(216),
            ),
            SHAPE,
            **LOWERED,
            codes=(Code.AXIS_MISMATCH,),
        ),
        Case(
            "conv-mean-over-channels-bn",
            back(lambda y: y.transpose(1, 2).mean(1, keepdim=True).expand(2, 6, 6, 6)),
            SHAPE,
            **LOWERED,
            codes=(Code.NO_LINEAR_BEFORE,),
        ),
        Case("conv-counting-pool-bn", back(pool), SHAPE, **LOWERED, codes=pad_counts),
        Case(
            "conv-zero-pad-bn",
            back(lambda y: F.pad(y, (1, 1, 1, 1))),
            SHAPE,
            **LOWERED,
            codes=pad_counts,
        ),
        Case(
            "conv-swap-bn",
            back(lambda y: y.transpose(1, 2)),
            SHAPE,
            **LOWERED,
            codes=(Code.AXIS_MISMATCH,),
        ),
        Case("qkv-scale", heads, (2, 6, 6), 0, rules=MOVE),
    ]


def _joins() -> list[Case]:
    conv, norm = nn.Conv2d, nn.BatchNorm2d
    two = {"a": conv(6, 4, 1), "b": conv(6, 2, 1)}
    cat = Fn(lambda m, x: m.bn(torch.cat([m.a(x), m.b(x)], 1)), **two, bn=norm(6))
    cat3 = Fn(
        lambda m, x: m.bn(torch.cat([F.relu(m.a(x)) * 0 + m.a(x), m.b(x)], 1)),
        a=conv(6, 4, 1),
        b=conv(6, 2, 1),
        bn=norm(6),
    )
    skip = Fn(lambda m, x: m.bn(torch.cat([m.a(x), x], 1)), a=conv(6, 2, 1), bn=norm(8))
    same = Fn(
        lambda m, x: (lambda y: m.bn(torch.cat([y, y], 1)))(m.a(x)), a=conv(6, 3, 1), bn=norm(6)
    )
    spatial = Fn(
        lambda m, x: m.bn(torch.cat([m.a(x), m.b(x)], 2)),
        a=conv(6, 6, 1),
        b=conv(6, 6, (3, 1)),
        bn=norm(6),
    )
    on_cat = Fn(
        lambda m, x: m.c(torch.cat([m.bn(x), F.relu(x), m.bn2(torch.tanh(x))], 1)),
        bn=norm(6),
        bn2=norm(6),
        c=conv(18, 4, 1),
    )
    added = Fn(
        lambda m, x: m.bn(m.a(x) + m.b(F.relu(x))), a=conv(6, 6, 1), b=conv(6, 6, 1), bn=norm(6)
    )
    subtracted = Fn(
        lambda m, x: m.bn(torch.sub(m.a(x), m.b(F.relu(x)), alpha=3)),
        a=conv(6, 6, 1),
        b=conv(6, 6, 1),
        bn=norm(6),
    )
    one_arm = Fn(lambda m, x: m.bn(m.a(x) + torch.tanh(x)), a=conv(6, 6, 1), bn=norm(6))
    second_takes = Fn(
        lambda m, x: m.bn(F.relu(m.a(x)) + m.b(F.relu(x))),
        a=conv(6, 6, 1),
        b=conv(6, 6, 1),
        bn=Positive(6),
    )
    in_place = Fn(
        lambda m, x: m.bn(m.a(x).add_(m.b(F.relu(x)))), a=conv(6, 6, 1), b=conv(6, 6, 1), bn=norm(6)
    )
    gate = Fn(
        lambda m, x: torch.tanh((m.a(x) * torch.sigmoid(x)) * m.c.v),
        a=conv(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    se = Fn(
        lambda m, x: torch.tanh((m.a(x) * torch.sigmoid(x.mean((2, 3), keepdim=True))) * m.c.v),
        a=conv(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    squared = Fn(
        lambda m, x: (lambda y: torch.tanh((y * y) * m.c.v))(m.a(x)),
        a=conv(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    parts = Fn(
        lambda m, x: (lambda t: torch.tanh(m.bn1(t[0])) * m.bn2(t[1]))(m.a(x).chunk(2, 1)),
        a=conv(6, 12, 1),
        bn1=norm(6),
        bn2=norm(6),
    )
    part_and_rest = Fn(
        lambda m, x: (lambda y: torch.tanh(m.bn(y[:, 2:5])) + y[:, :2].sum() + y[:, 5:].sum())(
            m.a(x)
        ),
        a=conv(6, 12, 1),
        bn=norm(3),
    )
    overlapping = Fn(
        lambda m, x: (lambda y: m.bn(y[:, 2:5]) + y[:, 4:7])(m.a(x)), a=conv(6, 12, 1), bn=norm(3)
    )
    split_on = Fn(
        lambda m, x: (lambda t: m.a(t[0]) + m.b(t[1]))(torch.split(m.bn(x), [2, 4], 1)),
        bn=norm(6),
        a=conv(2, 4, 1),
        b=conv(4, 4, 1),
    )
    positions = Fn(
        lambda m, x: (lambda y: y + F.relu(m.d(m.b2(y))))(m.b1(m.a(x)) + m.c.v),
        a=conv(6, 6, 1),
        b1=norm(6),
        c=Channels(1, 6, 6, 6),
        b2=norm(6),
        d=conv(6, 6, 1),
    )
    constants_only = Fn(lambda m, x: 0 + m.a(x) * 1, a=conv(6, 6, 1))
    other, before = (Code.OTHER_READERS,), (Code.NO_LINEAR_BEFORE,)
    return [
        Case("bn-cat", cat, SHAPE, rules=MOVE, ops=3),
        Case("bn-cat-relu-arm", cat3, SHAPE, rules=MOVE),
        Case("bn-cat-skip", skip, SHAPE, **LOWERED, codes=(*before, *other)),
        Case("bn-cat-same-twice", same, SHAPE, **LOWERED, codes=other),
        Case("bn-cat-other-axis", spatial, SHAPE, rules=MOVE, ops=3),
        Case("cat-conv", on_cat, SHAPE, 2, rules=MOVE, ops=4),
        Case("bn-add", added, SHAPE, rules=MOVE, ops=4),
        Case("bn-sub-alpha", subtracted, SHAPE, rules=MOVE, ops=4),
        Case("bn-add-one-arm", one_arm, SHAPE, **LOWERED, codes=before),
        Case("bn-add-second-takes-shift", second_takes, SHAPE, rules=MOVE, ops=5),
        Case("bn-add-in-place", in_place, SHAPE, rules=MOVE, ops=4),
        Case("gate-scale", gate, SHAPE, 0, rules=MOVE, ops=4),
        Case("gate-broadcast-scale", se, SHAPE, 0, rules=MOVE, ops=5),
        Case("squared-scale", squared, SHAPE, 0, ops=4),
        Case("chunk-two-bns", parts, SHAPE, 2, rules=MOVE, ops=6),
        Case("slice-bn", part_and_rest, SHAPE, rules=MOVE),
        Case("overlapping-slices", overlapping, SHAPE, **LOWERED, codes=other),
        Case("bn-split-convs", split_on, SHAPE, rules=MOVE, ops=6),
        Case("identities", constants_only, SHAPE, 0, ops=1),
        Case("position-embedding", positions, SHAPE, 2, ops=5),
    ]


CASES = [*_both_ways(), *_by_sign(), *_one_way(), *_joins()]
