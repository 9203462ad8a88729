"""Small graphs: affine maps that are written as arithmetic, and weights that are computed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from battery.conv import Case, Fn, seq
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from bnfx import Code

SHAPE = (2, 6, 6, 6)


class Channels(nn.Module):
    """Signed numbers, one a channel, in some shape."""

    def __init__(self, *shape: int, buffer: bool = False) -> None:
        super().__init__()
        value = torch.linspace(-1.3, 2.0, math.prod(shape)).reshape(shape)
        if buffer:
            self.register_buffer("v", value)
        else:
            self.v = nn.Parameter(value)


class HandWritten(nn.Module):
    """BatchNorm in evaluation as people write it out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.0, 1.5, channels))
        self.bias = nn.Parameter(torch.linspace(0.5, -0.5, channels))
        self.register_buffer("mean", torch.linspace(-0.5, 0.3, channels))
        self.register_buffer("var", torch.linspace(0.4, 2.0, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = self.mean[None, :, None, None], self.var[None, :, None, None]
        normal = (x - mean) / torch.sqrt(var + 1e-5)
        return self.weight.view(1, -1, 1, 1) * normal + self.bias.view(1, -1, 1, 1)


def frozen(channels: int) -> nn.Module:
    norm = FrozenBatchNorm2d(channels)
    norm.weight.copy_(torch.linspace(-1.0, 1.5, channels))
    norm.bias.copy_(torch.linspace(0.5, -0.5, channels))
    norm.running_mean.copy_(torch.linspace(-0.5, 0.3, channels))
    norm.running_var.copy_(torch.linspace(0.4, 2.0, channels))
    return norm


def after(function: object, shape: tuple[int, ...] = (6, 1, 1), buffer: bool = False) -> nn.Module:
    """A convolution, then ``function(y, v)``, with ``v`` of ``shape``."""
    return Fn(
        lambda m, x: function(m.conv(x), m.c.v),  # type: ignore[operator]
        conv=nn.Conv2d(6, 6, 1),
        c=Channels(*shape, buffer=buffer),
    )


def before(function: object, shape: tuple[int, ...] = (6, 1, 1), padding: int = 0) -> nn.Module:
    return Fn(
        lambda m, x: m.conv(function(x, m.c.v)),  # type: ignore[operator]
        conv=nn.Conv2d(6, 6, 3, padding=padding),
        c=Channels(*shape, buffer=True),
    )


def _one_op() -> list[Case]:
    """A convolution absorbs each, so one op is left."""
    functions = {
        "mul": lambda y, v: y * v,
        "rmul": lambda y, v: v * y,
        "add": lambda y, v: y + v,
        "radd": lambda y, v: v + y,
        "sub": lambda y, v: y - v,
        "rsub": lambda y, v: v - y,
        "div": lambda y, v: y / (v + 3),
        "neg": lambda y, v: -y,
        "float": lambda y, v: y * 0.5 + 1.5,
        "int": lambda y, v: 3 - 2 * y,
        "in-place": lambda y, v: y.mul_(v).add_(v).div_(2),
        "in-place-operators": lambda y, v: _in_place(y, v),
        "methods": lambda y, v: y.add(v, alpha=2).sub(v).multiply(v).neg(),
        "functions": lambda y, v: torch.neg(torch.sub(torch.add(y, v), v, alpha=0.5)),
        "reflected": lambda y, v: torch.rsub(y, v),
        "computed": lambda y, v: y * v.exp().sqrt() + v.abs().reciprocal(),
    }
    cases = [Case(f"conv-{name}", after(f), SHAPE, 0, ops=1) for name, f in functions.items()]
    cases += [
        Case(f"{name}-conv", before(functions[name]), SHAPE, 0, ops=1)
        for name in ("mul", "radd", "sub", "rsub", "div", "neg", "float", "int", "computed")
    ]
    shapes = {"scalar": (), "one": (1,), "full-rank": (1, 6, 1, 1), "ones": (1, 1, 1, 1)}
    cases += [
        Case(f"conv-mul-{name}", after(lambda y, v: y * v, shape), SHAPE, 0, ops=1)
        for name, shape in shapes.items()
    ]
    cases.append(Case("conv-buffer", after(lambda y, v: y * v, buffer=True), SHAPE, 0, ops=1))
    return cases


def _in_place(y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y *= v
    y += 1
    y -= v
    y /= 2
    return y


def _written_alias(y: torch.Tensor) -> torch.Tensor:
    """Both operands of the sum are the tensor that was written to."""
    z = y
    y *= 2
    return z - y * 0.5


def _traps() -> list[Case]:
    """Arithmetic along another axis, of the same size: not the convolution's channels."""

    def spatial(name: str, shape: tuple[int, ...], ops: int = 2) -> Case:
        return Case(name, after(lambda y, v: y * v, shape), SHAPE, 0, ops=ops)

    grown = Fn(
        lambda m, x: m.conv(x).sum(1, keepdim=True) * m.c.v,
        conv=nn.Conv2d(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    twice = Fn(
        lambda m, x: (lambda y: y * m.c.v + y)(m.conv(x)),
        conv=nn.Conv2d(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    thrice = Fn(
        lambda m, x: (lambda y: y * m.c.v + y.tanh())(m.conv(x)),
        conv=nn.Conv2d(6, 6, 1),
        c=Channels(6, 1, 1),
    )
    relay = Fn(lambda m, x: (lambda y: (y + F.relu(y)) * -1)(m.conv(x)), conv=nn.Conv2d(6, 6, 1))
    openvino = Fn(
        lambda m, x: m.conv(x * m.c.v), conv=nn.Conv2d(6, 6, 3, padding=1), c=Channels(1, 6, 3, 3)
    )
    alias = Fn(lambda m, x: _written_alias(m.conv(x)), conv=nn.Conv2d(6, 6, 1))
    return [
        Case("alias-of-what-is-written", alias, SHAPE, 0, ops=4),
        Case("relays-signed-relu", relay, SHAPE, 0, ops=4),
        Case("openvinos-spatial-factor", openvino, (2, 6, 3, 3), 0, ops=2),
        spatial("conv-mul-w", (6,)),
        spatial("conv-mul-h", (6, 1)),
        spatial("conv-mul-1w", (1, 6)),
        spatial("conv-mul-hw", (6, 6)),
        spatial("conv-mul-chw", (1, 1, 6)),
        Case("conv-mul-full-kernel", after(lambda y, v: y * v.expand(6, 6, 6)), SHAPE, 0, ops=3),
        Case("w-mul-conv", before(lambda y, v: y * v, (6,)), SHAPE, 0, ops=2),
        Case("reciprocal", after(lambda y, v: 2 / y.clamp(min=0.5)), SHAPE, 0, ops=3),
        Case("grown-by-broadcast", grown, SHAPE, 0, ops=3),
        Case("conv-mul-and-raw", twice, SHAPE, 0, rules=("merge-parallel-affines",), ops=1),
        Case("conv-mul-and-tanh", thrice, SHAPE, 0, ops=4),
    ]


def _norms() -> list[Case]:
    detectron = Fn(
        lambda m, x: F.batch_norm(
            m.conv(x), m.bn.mean, m.bn.var, m.bn.weight, m.bn.bias, training=False, eps=1e-5
        ),
        conv=nn.Conv2d(6, 6, 3),
        bn=HandWritten(6),
    )
    layer_scale = Fn(lambda m, x: x + m.c.v * m.lin(x), lin=nn.Linear(6, 6), c=Channels(6))
    norm_input = Fn(
        lambda m, x: m.conv((x - m.mean.v) / m.std.v.abs()),
        conv=nn.Conv2d(6, 6, 3),
        mean=Channels(1, 6, 1, 1, buffer=True),
        std=Channels(1, 6, 1, 1, buffer=True),
    )
    images = Fn(lambda m, x: m.conv(x / 255 * 2 - 1), conv=nn.Conv2d(6, 6, 3))
    wide = Fn(
        lambda m, x: m.conv((x - m.mean.v) / m.std.v.abs()),
        conv=nn.Conv2d(6, 48, 3, padding=1),
        mean=Channels(1, 6, 1, 1, buffer=True),
        std=Channels(1, 6, 1, 1, buffer=True),
    )
    instance = seq(nn.Conv2d(6, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True))
    untracked = seq(nn.Conv2d(6, 6, 3), nn.InstanceNorm2d(6, affine=True))
    kept = {"folded": 0, "kept": 1}
    code = (Code.NO_RUNNING_STATISTICS,)
    both = seq(nn.Conv2d(6, 6, 3), frozen(6), nn.ReLU(), frozen(6), nn.Conv2d(6, 4, 3))
    return [
        Case("conv-frozen", seq(nn.Conv2d(6, 6, 3, bias=False), frozen(6)), SHAPE, 0, ops=1),
        Case("frozen-conv", seq(frozen(6), nn.Conv2d(6, 6, 3)), SHAPE, 0, ops=1),
        Case("frozen-alone", seq(nn.ReLU(), frozen(6)), SHAPE, 0, ops=3),
        Case("frozen-both-sides", both, SHAPE, 0, ops=3),
        Case("detectron2", detectron, SHAPE, 1, ops=1),
        Case("hand-written", seq(nn.Conv2d(6, 6, 3), HandWritten(6)), SHAPE, 0, ops=1),
        Case("hand-written-before", seq(HandWritten(6), nn.Conv2d(6, 6, 3)), SHAPE, 0, ops=1),
        Case("layer-scale", layer_scale, (2, 6, 6), 0, ops=1),
        Case("mean-std-conv", norm_input, SHAPE, 0, ops=1),
        Case("image-scaling-conv", images, SHAPE, 0, ops=1),
        Case("mean-std-conv-padded", wide, SHAPE, 0, ops=2),
        Case("instance-norm", instance, (2, 6, 8, 8), 1, ops=1),
        Case("instance-norm-untracked", untracked, (2, 6, 8, 8), **kept, codes=code, ops=2),
    ]


class Standardised(nn.Conv2d):
    """Weight standardisation as in timm: a batch norm of the weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


def _computed_weights() -> list[Case]:
    norm = nn.BatchNorm2d(6)
    parametrized = nn.utils.parametrizations
    dynamic = Fn(
        lambda m, x: m.bn(F.conv2d(x, m.conv.weight * x.mean())),
        conv=nn.Conv2d(6, 6, 3),
        bn=nn.BatchNorm2d(6),
    )
    doubled = Fn(
        lambda m, x: m.bn(F.conv2d(x, m.conv.weight * 2)),
        conv=nn.Conv2d(6, 6, 3),
        bn=nn.BatchNorm2d(6),
    )
    written = Fn(
        lambda m, x: (lambda w: (m.bn(F.conv2d(x, w)), w.mul_(2))[0])(m.conv.weight * 2),
        conv=nn.Conv2d(6, 6, 3),
        bn=nn.BatchNorm2d(6),
    )
    unread = (Code.NO_LINEAR_BEFORE, Code.NOT_A_PARAMETER)
    lowered = {"folded": 0, "lowered": 1}
    return [
        Case("weight-norm", seq(parametrized.weight_norm(nn.Conv2d(6, 6, 3)), norm), SHAPE, ops=1),
        Case(
            "spectral-norm",
            seq(parametrized.spectral_norm(nn.Conv2d(6, 6, 3)), nn.BatchNorm2d(6)),
            SHAPE,
            rules=("fold-affine-into-linear",),
        ),
        Case("weight-standardisation", seq(Standardised(6, 6, 3), nn.BatchNorm2d(6)), SHAPE, ops=1),
        Case(
            "bn-weight-norm",
            seq(nn.BatchNorm2d(6), parametrized.weight_norm(nn.Conv2d(6, 6, 3))),
            SHAPE,
            ops=1,
        ),
        Case("computed-weight", doubled, SHAPE, ops=1),
        Case("data-in-weight", dynamic, SHAPE, **lowered, codes=unread),
        Case("computed-weight-written", written, SHAPE, **lowered, codes=unread),
    ]


CASES = [*_one_op(), *_traps(), *_norms(), *_computed_weights()]
