"""What models return: views of what they computed, copies, equal values, arguments; by name.

Each takes the output of a convolution and BatchNorm, the input, and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

Form = Callable[[Any, Any, Any], Any]


def _zeroed(y: torch.Tensor, x: torch.Tensor, m: nn.Module) -> Any:
    y[:, 0] = 0
    return y, y[:, 2]


def _of(value: Callable[[Any, Any, Any], Any], then: Callable[[Any], Any]) -> Form:
    return lambda y, x, m: then(value(y, x, m))


def _without_gradients(y: torch.Tensor, x: torch.Tensor, m: nn.Module) -> Any:
    with torch.no_grad():
        part = y[:, 1:3]
    return part, y.relu()


def _checkpointed(parts: Callable[[Any], Any]) -> Form:
    return lambda y, x, m: checkpoint(parts, y, use_reentrant=False)


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: torch.Tensor) -> Any:
        z = y * 2
        return z[:1], z[1:]

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> Any:
        return torch.cat([first, second]) * 2


# Inductor gets each of these wrong by itself, or where it packs weights: of one kind each.
FEW: Mapping[str, Form] = {
    "a view": lambda y, x, m: (y, y[:, 2]),
    "a view alone": lambda y, x, m: y[:, 2],
    "parts alone": lambda y, x, m: (y[:, 1:3], y[:, 2:4]),
    "equal values": lambda y, x, m: (y.relu(), y.relu()),
    "two copies": lambda y, x, m: (y.clone(), y.clone()),
    "the input, computed": lambda y, x, m: (x * 1, y),
    "written over": _zeroed,
    "what fills a concatenation": _of(lambda y, x, m: (torch.cat([y, y], 1), y), lambda p: p),
}
FORMS: Mapping[str, Form] = {
    **FEW,
    "flat": lambda y, x, m: (y, y.view(2, -1)),
    "flat, cut": lambda y, x, m: (y, y.flatten(1)[:, :7]),
    "permuted": lambda y, x, m: (y, y.permute(0, 2, 3, 1)),
    "permuted alone": lambda y, x, m: y.permute(0, 2, 3, 1),
    "chunks": lambda y, x, m: y.chunk(3, 1),
    "splits": lambda y, x, m: (*y.split([2, 4], 1), y),
    "rows": lambda y, x, m: y.unbind(0),
    "one twice": _of(lambda y, x, m: y.relu(), lambda z: (z, z)),
    "a copy": lambda y, x, m: (y, y.clone()),
    "plus 0": lambda y, x, m: (y, y + 0),
    "times 1": lambda y, x, m: (y, y * 1),
    "of parameters": lambda y, x, m: (y, m.w * 2, (m.w * 2)[:, 1]),
    "a parameter": lambda y, x, m: (y, m.w, m.w[1:3], m.w.t()),
    "a buffer": lambda y, x, m: (y, m.k, m.k[1:]),
    "a buffer, computed": lambda y, x, m: (m.k + 0, y),
    "of the fold": lambda y, x, m: (y, m.c.weight.view(-1), m.b.weight, m.b.running_mean),
    "the input": lambda y, x, m: (x, y, x[:, 1]),
    "the input plus 0": lambda y, x, m: (y, x + 0),
    "the input, dropped": lambda y, x, m: (y, F.dropout(x, 0.5, False)),
    "the input as it is": lambda y, x, m: (x.to(x.dtype), y),
    "new": lambda y, x, m: (y, torch.full((3,), 2.0), torch.ones(3), torch.ones(3)),
    "a tensor": lambda y, x, m: (y, torch.tensor([1.0, 2.0])),
    "spread": lambda y, x, m: (y, y.mean(1, keepdim=True).expand(2, 6, 6, 6)),
    "by strides": lambda y, x, m: (y, y.as_strided((2, 3), (5, 1))),
    "a diagonal": lambda y, x, m: (y, y.diagonal(0, 2, 3)),
    "windows": lambda y, x, m: (y, y.unfold(2, 3, 1)),
    "added to": lambda y, x, m: (y.add_(1), y[:, 2]),
    "every other": lambda y, x, m: (y.relu_(), y[:, ::2]),
    "of linear": _of(
        lambda y, x, m: m.l(y.permute(0, 2, 3, 1)),
        lambda z: (z, z[:, 1], z.transpose(1, 3)),
    ),
    "of two": _of(lambda y, x, m: (m.c2(y), y), lambda p: (p[0], p[0][:, 1], p[1], p[1][:, 1])),
    "of two, activated": _of(
        lambda y, x, m: (m.c2(y), y), lambda p: (p[0].relu(), p[0][:, 1], p[1].relu())
    ),
    "of a concatenation": _of(lambda y, x, m: torch.cat([y, y], 1), lambda z: (z, z[:, :6])),
    "stacked": lambda y, x, m: torch.stack([y, y * 2]).unbind(0),
    "channels last": _of(
        lambda y, x, m: y.contiguous(memory_format=torch.channels_last), lambda z: (z, z[:, 1])
    ),
    "contiguous": lambda y, x, m: (y, y.contiguous(), y.contiguous().view(-1)),
    "squeezed": _of(lambda y, x, m: y.mean(1, keepdim=True), lambda z: (z, z.squeeze(1))),
    "pooled": _of(lambda y, x, m: F.max_pool2d(y, 2), lambda z: (z, z[:, :, 0])),
    "pooled flat": _of(lambda y, x, m: y.mean((2, 3), keepdim=True), lambda z: (z, z.flatten(1))),
    "detached": lambda y, x, m: (y, y.detach()),
    "views of what is detached": lambda y, x, m: (y.detach()[:, 1], y[:, 2], y.relu()),
    "as integers": _of(lambda y, x, m: y.detach().sign(), lambda z: (z, z.view(torch.int64))),
    "as more of them": _of(lambda y, x, m: y.detach().sign(), lambda z: (z, z.view(torch.int16))),
    "converted": lambda y, x, m: (y.half(), y.float(), y.to(torch.float32)),
    "in a dict": lambda y, x, m: {"a": y, "b": [y[0], y[1]]},
    "of a sum": _of(lambda y, x, m: y + x.mean(), lambda z: (z[:, 2], z[:, 3])),
    "flipped": lambda y, x, m: (y.flip(1), y.movedim(1, -1)),
    "reshaped": lambda y, x, m: (y, y.reshape(2, -1), y.permute(0, 2, 3, 1).reshape(2, -1)),
    "shuffled": _of(lambda y, x, m: F.pixel_shuffle(m.c2(y)[:, :4], 2), lambda z: (z, z[:, 0])),
    "resized": _of(lambda y, x, m: F.interpolate(y, scale_factor=2), lambda z: (z, z[:, :, 0])),
    "views of views": lambda y, x, m: (
        y.view(2, 2, 3, 6, 6).permute(0, 2, 1, 3, 4)[:, 1],
        y.transpose(0, 1).unflatten(0, (2, 3))[0],
    ),
    "read elsewhere": _of(
        lambda y, x, m: (y.relu(), m), lambda p: (p[0].view(2, 6, -1), p[1].c2(p[0]), p[0][:, 1])
    ),
    "the input, computed and flat": lambda y, x, m: (y, (x * 1).flatten()),
    "the input, computed and permuted": lambda y, x, m: (x + 0).permute(0, 2, 3, 1),
    "a part of the input": lambda y, x, m: (x[:, 1] * 1, y, x[:1] * 1),
    "the input as integers": lambda y, x, m: (y, x.view(torch.int64) + 0),
    "a part of a buffer": lambda y, x, m: (y, m.k[1:] + 0),
    "a part, computed": lambda y, x, m: (y[:, 1] * 1, y),
    "written in place, twice": lambda y, x, m: (F.relu(y, inplace=True), y),
    "one by other names": lambda y, x, m: (y, y.contiguous(), y.to(y.dtype), y.view_as(y)),
    "without gradients": _without_gradients,
    "real numbers of complex ones": lambda y, x, m: torch.complex(y, y * 2).real,
    "complex numbers": _of(
        lambda y, x, m: torch.complex(y, y * 2).detach(),
        lambda z: (z, torch.view_as_real(z), z.imag),
    ),
    "of one": lambda y, x, m: (y[:, :1], y[:1]),
    "numbers beside": lambda y, x, m: (y.shape[0], y, 1, y[:, 2], True, None),
}
# Left to compilers: no value of the graph is known to be all of the memory.
LEFT: Mapping[str, Form] = {
    "normalised behind a transpose": _of(
        lambda y, x, m: m.b(m.c(x).transpose(2, 3)),
        lambda z: (z, z.transpose(2, 3).reshape(2, 6, 36)),
    ),
    "a part of what is normalised so": _of(
        lambda y, x, m: m.b(m.c(x).transpose(2, 3)), lambda z: (z, z[:, 1])
    ),
    "rows of a checkpoint": _checkpointed(lambda y: (y * 2).unbind(0)),
    "a beginning and the whole": _checkpointed(lambda y: (lambda z: (z[:1], z))(y * 2)),
    "of a function of one's own": lambda y, x, m: _Parts.apply(y),
}
