"""Small graphs: parallel and serial linear operators that become one."""

from __future__ import annotations

from typing import Any

import torch
from battery.arithmetic import Channels
from battery.conv import Case, Fn, seq
from torch import nn

from bnfx import Code

PARALLEL, SERIAL = ("merge-parallel-linear",), ("merge-serial-linear",)
BESIDE = ("merge-parallel-affines",)
FAR, READ = (Code.NO_LINEAR_BEFORE,), Code.OTHER_READERS
SHAPE = (2, 6, 6, 6)
Conv, Norm = nn.Conv2d, nn.BatchNorm2d


def _sum(*layers: nn.Module) -> nn.Module:
    """``layers[0](x) + layers[1](x) + ...``"""

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = m.layer0(x)
        for index in range(1, len(layers)):
            out = out + getattr(m, f"layer{index}")(x)
        return out

    return Fn(forward, **{f"layer{index}": layer for index, layer in enumerate(layers)})


def _parallel() -> list[Case]:
    acnet = _sum(
        seq(Conv(6, 4, 3, padding=1, bias=False), Norm(4)),
        seq(Conv(6, 4, (1, 3), padding=(0, 1), bias=False), Norm(4)),
        seq(Conv(6, 4, (3, 1), padding=(1, 0), bias=False), Norm(4)),
    )
    repvgg = _sum(
        seq(Conv(6, 6, 3, padding=1, bias=False), Norm(6)),
        seq(Conv(6, 6, 1, bias=False), Norm(6)),
        Norm(6),
    )
    mobileone = _sum(
        seq(Conv(6, 6, 3, padding=1, groups=6, bias=False), Norm(6)),
        seq(Conv(6, 6, 3, padding=1, groups=6, bias=False), Norm(6)),
        seq(Conv(6, 6, 1, groups=6, bias=False), Norm(6)),
        Norm(6),
    )
    pooled = _sum(Conv(6, 6, 3, padding=1), nn.AvgPool2d(3, stride=1, padding=1))
    pooled_uncounted = _sum(
        Conv(6, 6, 3, padding=1), nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    )
    strided = _sum(Conv(6, 4, 3, stride=2, padding=1), Conv(6, 4, 1, stride=2))
    grouped = _sum(Conv(6, 6, 3, padding=1, groups=2), Conv(6, 6, 1, groups=3))
    uneven = _sum(Conv(6, 4, 5, padding=2), Conv(6, 4, 3, padding=1))
    even = _sum(seq(nn.ZeroPad2d((0, 1, 0, 1)), Conv(6, 4, 2)), Conv(6, 4, 1))
    dilated = _sum(Conv(6, 4, 3, padding=2, dilation=2), Conv(6, 4, 1))
    dilations = _sum(Conv(6, 4, 3, padding=2, dilation=2), Conv(6, 4, 3, padding=1))
    strides = _sum(
        Conv(6, 4, 3, padding=1), seq(Conv(6, 4, 1, stride=2), nn.Upsample(scale_factor=2))
    )
    dear = _sum(Conv(6, 6, 1), Conv(6, 6, 5, padding=2, groups=6))
    other_input = Fn(lambda m, x: m.a(x) + m.b(torch.relu(x)), a=Conv(6, 4, 1), b=Conv(6, 4, 1))
    read_twice = Fn(
        lambda m, x: (lambda y: y + m.b(x) + torch.tanh(y))(m.a(x)),
        a=Conv(6, 6, 1),
        b=Conv(6, 6, 1),
    )
    residual = Fn(lambda m, x: x + m.a(x), a=Conv(6, 6, 3, padding=1))
    difference = Fn(
        lambda m, x: x + m.c.v * (m.a(x) - m.bn(x)),
        a=Conv(6, 6, 3, padding=1, groups=6),
        bn=Norm(6),
        c=Channels(6, 1, 1),
    )
    in_place = Fn(lambda m, x: _accumulate(m, x), a=Conv(6, 6, 3, padding=1), b=Conv(6, 6, 1))
    one_d = Fn(
        lambda m, x: m.a(x) + m.b(x) + x,
        a=nn.Conv1d(6, 6, 3, padding=1),
        b=nn.Conv1d(6, 6, 5, padding=2),
    )
    three_d = Fn(
        lambda m, x: m.a(x) + m.b(x), a=nn.Conv3d(3, 4, 3, padding=1), b=nn.Conv3d(3, 4, 1)
    )
    dense = Fn(lambda m, x: m.a(x) + m.b(x) + x, a=nn.Linear(6, 6), b=nn.Linear(6, 6, bias=False))
    reflected = _sum(Conv(6, 4, 3, padding=1, padding_mode="reflect"), Conv(6, 4, 1))
    behind = Fn(
        lambda m, x: m.bn(m.a(x) + m.b(x) + x),
        a=Conv(6, 6, 3, padding=1),
        b=Conv(6, 6, 1),
        bn=Norm(6),
    )
    widened = _sum(Conv(6, 4, 3, padding=0), Conv(6, 4, 3, padding=0))
    input_written = Fn(
        lambda m, x: (lambda z: (lambda a: (z.mul_(2), a + m.b(z))[1])(m.a(z)))(x + 1),
        a=Conv(6, 6, 1),
        b=Conv(6, 6, 1),
    )
    return [
        Case("acnet", acnet, SHAPE, 3, rules=PARALLEL, ops=1),
        Case("repvgg", repvgg, SHAPE, 3, rules=PARALLEL, ops=1),
        Case("mobileone", mobileone, SHAPE, 4, rules=PARALLEL, ops=1),
        Case("conv-and-avg-pool", pooled, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("conv-and-uncounted-pool", pooled_uncounted, SHAPE, 0, ops=3),
        Case("parallel-strided", strided, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-grouped", grouped, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-5-and-3", uneven, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-behind-a-pad", even, SHAPE, 0, ops=4),
        Case("parallel-dilated", dilated, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-two-dilations", dilations, SHAPE, 0, ops=3),
        Case("parallel-two-strides", strides, SHAPE, 0, ops=4),
        Case("parallel-costs-more", dear, (1, 6, 6, 6), 0),
        Case("parallel-other-input", other_input, SHAPE, 0, ops=4),
        Case("parallel-read-twice", read_twice, SHAPE, 0, ops=5),
        Case("residual", residual, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("rep-mixer", difference, SHAPE, 1, rules=PARALLEL, ops=1),
        Case("parallel-in-place", in_place, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-1d", one_d, (2, 6, 6), 0, rules=PARALLEL, ops=1),
        Case("parallel-3d", three_d, (2, 3, 5, 4, 6), 0, rules=PARALLEL, ops=1),
        Case("parallel-dense", dense, (2, 6, 6), 0, rules=PARALLEL, ops=1),
        Case("parallel-reflected", reflected, SHAPE, 0),
        Case("bn-behind-branches", behind, SHAPE, 1, rules=PARALLEL, ops=1),
        Case("parallel-unpadded", widened, SHAPE, 0, rules=PARALLEL, ops=1),
        Case("parallel-input-written", input_written, SHAPE, 0, ops=5),
    ]


def _beside() -> list[Case]:
    """Affine maps of one value, added."""
    around = Fn(lambda m, x: (lambda y: y + m.bn(y))(m.conv(x)), conv=Conv(6, 6, 3), bn=Norm(6))
    two = Fn(lambda m, x: torch.relu(m.a(x) + m.b(x)), a=Norm(6), b=Norm(6))
    behind = Fn(
        lambda m, x: (lambda y: m.a(y) - 2 * m.b(y))(torch.relu(m.conv(x))),
        conv=Conv(6, 6, 1),
        a=Norm(6),
        b=Norm(6),
    )
    scaled = Fn(lambda m, x: m.bn(x) + m.c.v * x, bn=Norm(6), c=Channels(6, 1, 1))
    rows = Fn(lambda m, x: m.bn(x) + m.c.v * x, bn=Norm(6), c=Channels(6, 1))
    read = Fn(
        lambda m, x: (lambda y: y + m.b(x) + torch.tanh(y))(m.a(x)),
        a=Norm(6),
        b=Norm(6),
    )
    written = Fn(lambda m, x: _written_between(m, x + 1), a=Norm(6), b=Norm(6))
    in_place = Fn(lambda m, x: m.a(x).add_(m.b(x)), a=Norm(6), b=Norm(6))

    def one(name: str, model: nn.Module, **known: Any) -> Case:
        return Case(name, model, SHAPE, 0, lowered=1, rules=BESIDE, **known)

    return [
        Case("bn-beside-its-input", around, SHAPE, 1, rules=BESIDE, ops=1),
        one("bn-beside-bn", two, codes=(*FAR, Code.NONZERO_SHIFT), merged=1, ops=3),
        one("bn-minus-bn", behind, codes=(Code.NONZERO_SHIFT,), merged=1, ops=4),
        one("bn-beside-a-scale", scaled, codes=FAR, ops=2),
        one("bn-beside-bn-in-place", in_place, codes=FAR, merged=1, ops=2),
        Case("bn-beside-rows", rows, SHAPE, 0, lowered=1, codes=(*FAR, READ), ops=4),
        Case("bn-beside-bn-read-twice", read, SHAPE, 0, lowered=2, codes=(*FAR, READ), ops=7),
        Case(
            "bn-beside-bn-written",
            written,
            SHAPE,
            0,
            lowered=2,
            codes=(READ, Code.MUTATED_IN_GRAPH, Code.AXIS_MISMATCH),
            ops=7,
        ),
    ]


def _written_between(m: nn.Module, z: torch.Tensor) -> torch.Tensor:
    before = m.a(z)
    z.mul_(2)
    return before + m.b(z)


def _accumulate(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = m.a(x)
    out += m.b(x)
    out += x
    return out


def reflect() -> nn.Module:
    """A convolution that pads by its edges; as a leaf module, it does so unseen."""
    return Conv(6, 6, 3, padding=1, padding_mode="reflect")


def _serial() -> list[Case]:
    pad = (Code.NO_LINEAR_BEFORE, Code.NONZERO_SHIFT)
    branch = Fn(
        lambda m, x: m.second(m.first(x)),
        first=seq(Conv(6, 6, 1, bias=False), Norm(6)),
        second=seq(Conv(6, 4, 3, bias=False), Norm(4)),
    )
    relu = seq(Conv(6, 6, 1), nn.ReLU(), Conv(6, 4, 3))
    other = Fn(
        lambda m, x: (lambda y: m.b(y) + torch.tanh(y))(m.a(x)), a=Conv(6, 6, 1), b=Conv(6, 6, 1)
    )
    bottleneck = seq(nn.Linear(64, 4), nn.Linear(4, 64))
    return [
        Case("1x1-3x3", seq(Conv(6, 6, 1), Conv(6, 4, 3)), SHAPE, 0, rules=SERIAL, ops=1),
        Case(
            "1x1-3x3-padded-no-bias",
            seq(Conv(6, 6, 1, bias=False), Conv(6, 4, 3, padding=1)),
            SHAPE,
            0,
            rules=SERIAL,
            ops=1,
        ),
        Case(
            "1x1-3x3-padded-bias",
            seq(Conv(6, 6, 1), Conv(6, 4, 3, padding=1)),
            SHAPE,
            0,
            rules=SERIAL,
            ops=2,
            border=False,
        ),
        Case(
            "3x3-1x1", seq(Conv(6, 6, 3, padding=1), Conv(6, 4, 1)), SHAPE, 0, rules=SERIAL, ops=1
        ),
        Case(
            "3x3-1x1-strided",
            seq(Conv(6, 6, 3, stride=2, padding=1), Conv(6, 4, 1, stride=2)),
            SHAPE,
            0,
            rules=SERIAL,
            ops=1,
        ),
        Case(
            "1x1-3x3-grouped",
            seq(Conv(6, 6, 1, groups=2), Conv(6, 4, 3, groups=2)),
            SHAPE,
            0,
            rules=SERIAL,
            ops=1,
        ),
        Case("1x1-1x1", seq(Conv(6, 6, 1), Conv(6, 4, 1)), SHAPE, 0, rules=SERIAL, ops=1),
        Case("3x3-3x3", seq(Conv(6, 6, 3), Conv(6, 4, 3)), SHAPE, 0, ops=2),
        Case("1x1-strided-3x3", seq(Conv(6, 6, 1, stride=2), Conv(6, 4, 3)), SHAPE, 0, ops=2),
        Case(
            "linear-linear", seq(nn.Linear(6, 6), nn.Linear(6, 4)), (3, 6), 0, rules=SERIAL, ops=1
        ),
        Case(
            "linear-linear-3d",
            seq(nn.Linear(6, 6), nn.Linear(6, 4, bias=False)),
            (3, 6, 6),
            0,
            rules=SERIAL,
            ops=1,
        ),
        Case("bottleneck-kept", bottleneck, (64, 64), 0, ops=2),
        Case("dbb-branch", branch, SHAPE, 2, rules=SERIAL, ops=1),
        Case("serial-relu-between", relu, SHAPE, 0, ops=3),
        Case("serial-reflected", seq(Conv(6, 6, 1), reflect(), Conv(6, 4, 1)), SHAPE, 0),
        Case("bn-pad-reflected", seq(Norm(6), nn.ZeroPad2d(1), reflect()), SHAPE, 0, 1, codes=pad),
        Case("serial-other-reader", other, SHAPE, 0, ops=4),
        Case(
            "1d-serial",
            seq(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, 3)),
            (2, 6, 8),
            0,
            rules=SERIAL,
            ops=1,
        ),
    ]


CASES = [*_parallel(), *_beside(), *_serial()]
