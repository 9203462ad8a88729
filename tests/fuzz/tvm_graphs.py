"""Random programs over the operators of torchvision, timm and smp models.

A program is a list of steps over a pool of tensors: indexing, mixed dtypes, views, writes in place,
random operators, convolutions, pools, resizes, attention. It is drawn and tried in eager mode, so
that each step is one that PyTorch takes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Step = Callable[["Program", list[torch.Tensor]], Any]


@dataclass
class Drawn:
    """A step with its numbers, and the values that it reads."""

    name: str
    run: Callable[..., Any]
    reads: tuple[int, ...]


class Program(nn.Module):
    """Runs its steps; gives some of the values, views and inputs among them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Drawn] = []
        self.outputs: list[int] = []
        self.layers = nn.ModuleList()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = list(inputs)
        for step in self.steps:
            result = step.run(*(values[at] for at in step.reads))
            values += result if isinstance(result, (tuple, list)) else [result]
        return tuple(values[at] for at in self.outputs)

    def __repr__(self) -> str:
        lines = [f"{step.name}{step.reads}" for step in self.steps]
        return f"{'; '.join(lines)} -> {self.outputs}"


@dataclass
class Maker:
    """Draws programs from a seed."""

    chance: random.Random
    program: Program = field(default_factory=Program)

    def of(self, *values: Any) -> Any:
        return self.chance.choice(values)

    def layer(self, layer: nn.Module) -> nn.Module:
        self.program.layers.append(layer)
        return layer

    def axis(self, x: torch.Tensor) -> int:
        return self.chance.randrange(-x.dim(), x.dim())


Made = tuple[str, Callable[..., Any]] | None


def _plain(m: Maker, x: torch.Tensor) -> Made:
    table: dict[str, Callable[..., Any]] = {
        "relu": torch.relu,
        "silu": F.silu,
        "gelu": F.gelu,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "relu6": F.relu6,
        "leaky": lambda x: F.leaky_relu(x, 0.1),
        "selu": F.selu,
        "elu": F.elu,
        "softplus": F.softplus,
        "mish": F.mish,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "abs": torch.abs,
        "clamp": lambda x: x.clamp(-0.5, 0.75),
        "square": lambda x: x**2,
        "scaled": lambda x: x * 0.3 + 1,
        "divided": lambda x: x / 3,
        "rsub": lambda x: 2 - x,
        "rounded": lambda x: (x + 1e4) - 1e4,
        "vanishing": lambda x: (x * 0 + 1) * x + x * 1e-50,
        "clone": torch.clone,
        "contiguous": lambda x: x.contiguous(),
        "detached": lambda x: x.detach(),
        "double": lambda x: x.double(),
        "half": lambda x: (x.clamp(-9, 9)).half(),
        "int": lambda x: (x.clamp(-99, 99) * 4).round().to(torch.int64),
        "mask": lambda x: x > 0,
        "byte": lambda x: (x.abs().clamp(0, 200)).to(torch.uint8),
    }
    name = m.of(*table)
    return name, table[name]


def _views(m: Maker, x: torch.Tensor) -> Made:
    if not x.dim():
        return "unsqueezed", lambda x: x[None]
    a, b = m.axis(x), m.axis(x)
    size = x.shape[a]
    start, end = m.chance.randrange(-size - 1, size + 1), m.of(None, size, -1, size + 3)
    index = m.chance.randrange(-size, size) if size else 0
    whole = (slice(None),) * (a % x.dim())
    table: dict[str, Callable[..., Any]] = {
        "transposed": lambda x: x.transpose(a, b),
        "flat": lambda x: x.flatten(min(1, x.dim() - 1)),
        "reshaped": lambda x: x.reshape(-1, x.shape[a]) if x.shape[a] else x.reshape(-1),
        "viewed": lambda x: x.unsqueeze(a).view_as(x.unsqueeze(a)),
        "squeezed": lambda x: x.squeeze(a),
        "unsqueezed": lambda x: x.unsqueeze(b),
        "sliced": lambda x: x[(*whole, slice(start, end))],
        "stepped": lambda x: x[(*whole, slice(None, None, 2))],
        "selected": lambda x: x[(*whole, index)],
        "listed": lambda x: x[(*whole, [index, -1])],
        "ellipsis": lambda x: x[..., :1],
        "expanded": lambda x: x.unsqueeze(0).expand(3, *x.shape),
        "chunked": lambda x: x.chunk(2, a),
        "unbound": lambda x: x.unbind(a)[:3],
        "split": lambda x: x.split(2, a)[:3],
        "narrowed": lambda x: x.narrow(a, 0, max(1, x.shape[a] - 1)),
        "strided": lambda x: x.as_strided((2, 2), (1, 1)),
        "flipped": lambda x: x.flip(a),
        "rolled": lambda x: x.roll(1, a),
        "diagonal": lambda x: x.diagonal(dim1=a, dim2=b),
    }
    name = m.of(*table)
    return f"{name}[{a},{b},{start}:{end},{index}]", table[name]


def _reduced(m: Maker, x: torch.Tensor) -> Made:
    if not x.dim():
        return None
    a, keep = m.axis(x), m.of(True, False)
    table: dict[str, Callable[..., Any]] = {
        "mean": lambda x: x.mean(a, keepdim=keep),
        "sum": lambda x: x.sum(a, keepdim=keep),
        "all": lambda x: x.sum(),
        "amax": lambda x: x.amax(a, keepdim=keep),
        "max": lambda x: x.max(a)[0],
        "argmax": lambda x: x.argmax(a),
        "sorted": lambda x: x.sort(a)[0],
        "var": lambda x: x.var(a, unbiased=False),
        "softmax": lambda x: x.softmax(a),
        "logsumexp": lambda x: x.logsumexp(a),
        "cumsum": lambda x: x.cumsum(a),
        "normalised": lambda x: F.normalize(x, dim=a),
        "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    }
    name = m.of(*table)
    return f"{name}[{a}]", table[name]


def _image(m: Maker, x: torch.Tensor) -> Made:
    if x.dim() != 4 or not x.is_floating_point() or x.dtype != torch.float32:
        return None
    channels, kernel, stride = x.shape[1], m.of(1, 2, 3), m.of(1, 1, 2)
    pad = m.of(0, kernel // 2)
    groups = m.of(1, 1, channels)
    conv = m.layer(nn.Conv2d(channels, m.of(1, 2, 3) * groups, kernel, stride, pad, groups=groups))
    norm = m.layer(nn.BatchNorm2d(channels))
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    up = m.layer(nn.ConvTranspose2d(channels, 2, kernel, stride))
    scale, size = m.of(2, 1.7, 0.5), (m.of(3, 5, 8), m.of(4, 7))
    mode = m.of("nearest", "bilinear", "bicubic")
    table: dict[str, Callable[..., Any]] = {
        "conv": conv,
        "conv2": conv,
        "conv_bn": lambda x: conv(norm(x)),
        "bn": norm,
        "transposed_conv": up,
        "max_pool": lambda x: F.max_pool2d(x, 2, stride, 1 if kernel == 3 else 0),
        "indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
        "ceil_pool": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        "avg_pool": lambda x: F.avg_pool2d(x, 2, stride, 1, count_include_pad=m_false),
        "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, size),
        "global": lambda x: F.adaptive_avg_pool2d(x, 1),
        "scaled_up": lambda x: F.interpolate(x, scale_factor=scale, mode=mode),
        "resized": lambda x: F.interpolate(x, size=size, mode=mode),
        "reflect": lambda x: F.pad(x, (1, 0, 1, 1), mode="reflect"),
        "padded": lambda x: F.pad(x, (1, 2, -1, 1), value=0.5),
        "shuffled": lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
        "unfolded": lambda x: F.unfold(x, 2),
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "group_norm": lambda x: F.group_norm(x, 1),
        "grid": lambda x: F.grid_sample(
            x,
            torch.linspace(-1.2, 1.2, 24).reshape(1, 3, 4, 2).expand(x.shape[0], -1, -1, -1),
            align_corners=False,
        ),
        "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    }
    m_false = m.of(True, False)
    name = m.of(*table)
    return f"{name}[{kernel},{stride},{pad},{groups},{scale},{size},{mode}]", table[name]


def _random(m: Maker, x: torch.Tensor) -> Made:
    table: dict[str, Callable[..., Any]] = {
        "dropout": lambda x: F.dropout(x, 0.5, True),
        "randn_like": lambda x: x + torch.randn_like(x),
        "rand": lambda x: x * torch.rand(x.shape),
        "bernoulli": lambda x: torch.empty_like(x).bernoulli_(0.5),
        "exponential": lambda x: torch.empty_like(x).exponential_(),
        "randint": lambda x: torch.randint(0, 5, (3,)),
        "normal_": lambda x: x.clone().normal_(),
    }
    name = m.of(*table)
    return name, table[name]


def _written(m: Maker, x: torch.Tensor) -> Made | None:
    if any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True)):
        return None  # PyTorch promises nothing for writes to memory that overlaps
    table: dict[str, Callable[..., Any]] = {
        "add_": lambda x: x.add_(1),
        "relu_": lambda x: F.relu(x, inplace=True),
        "mul_": lambda x: x.mul_(0.5),
        "zeroed": lambda x: x[..., :1].zero_(),
        "assigned": lambda x: x.__setitem__((..., -1), 2) or x,
        "copied": lambda x: x.copy_(x.flip(0) if x.dim() else x),
        "clamp_": lambda x: x.clone().clamp_(-1, 1),
        "write_view": lambda x: x.view(-1).mul_(2) if x.is_contiguous() else x.mul_(2),
    }
    name = m.of(*table)
    return name, table[name]


def _joined(m: Maker, x: torch.Tensor, y: torch.Tensor) -> Made:
    table: dict[str, Callable[..., Any]] = {
        "add": lambda x, y: x + y,
        "alpha": lambda x, y: torch.add(x, y, alpha=2),
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "div": lambda x, y: x / (y.abs() + 1),
        "floor_div": lambda x, y: x // (y.abs() + 1),
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "where": lambda x, y: torch.where(x > 0, x, y),
        "cat": lambda x, y: torch.cat([x, y], -1),
        "stack": lambda x, y: torch.stack([x, y]),
        "matmul": lambda x, y: torch.matmul(x, y.transpose(-1, -2)),
        "attention": lambda x, y: F.scaled_dot_product_attention(x, y, y),
        "equal": lambda x, y: x == y,
        "iadd": lambda x, y: x.add_(y),
        "both": lambda x, y: (x + 1, x),
    }
    name = m.of(*table)
    return name, table[name]


_MAKERS: tuple[Callable[..., Made], ...] = (
    *[_image] * 6,
    *[_plain] * 5,
    *[_views] * 4,
    *[_reduced] * 2,
    _random,
    _written,
    *[_joined] * 4,
)


def inputs_of(seed: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """An image, one in channels last or a slice, and a vector; they may share memory."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, 7, 8, generator=generator)
    kind = seed % 4
    if kind == 1:
        image = image.contiguous(memory_format=torch.channels_last)
    elif kind == 2:
        image = torch.randn(batch, 4, 7, 8, generator=generator)[:, 1:]
    vector = torch.randn(batch, 8, generator=generator) if kind != 3 else image[:, 0, 0]
    return image, vector


def drawn(seed: int) -> Program:
    """The program of a seed."""
    torch.manual_seed(seed)
    maker = Maker(random.Random(seed))
    program = maker.program.eval()
    values = list(inputs_of(seed))
    drawn_at: list[int] = []
    for _ in range(maker.chance.randrange(3, 11)):
        make = maker.of(*_MAKERS)
        reads = tuple(
            max(0, len(values) - 1 - maker.of(0, 0, 0, 1, 2, 3))
            for _ in range(2 if make is _joined else 1)
        )
        made = make(maker, *(values[at] for at in reads))
        if made is None:
            continue
        step = Drawn(made[0], made[1], reads)
        before = [value.clone() for value in values]
        try:
            with torch.no_grad():
                result = step.run(*(values[at] for at in reads))
            new = list(result) if isinstance(result, (tuple, list)) else [result]
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            values = before  # PyTorch does not take it
            continue
        if any(not isinstance(v, torch.Tensor) or v.numel() > 20000 for v in new):
            values = before
            continue
        program.steps.append(step)
        if make is _random:  # Dynamo drops what nobody reads, and draws fewer numbers then
            drawn_at.append(len(values))
        values += new
    count = min(len(values), maker.of(1, 2, 3))
    some = maker.chance.sample(range(len(values)), count - 1)
    program.outputs = [*sorted({*some, *drawn_at, len(values) - 1})]
    return program
