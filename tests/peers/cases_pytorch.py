"""The facts that PyTorch's own suites on folding BatchNorm state, as models and counts.

Sources read: ``test/inductor/test_efficient_conv_bn_eval.py``, ``test_binary_folding.py`` and
``test_inductor_freezing.py``, ``test/jit/test_freezing.py``, ``test/test_fx_experimental.py``. What
each asserts is stated anew; sizes are smaller where they prove no more.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from battery.conv import Fn
from torch import nn

Tensor = torch.Tensor
PAIRS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "linear": (nn.Linear, nn.BatchNorm1d),
    "conv1d": (nn.Conv1d, nn.BatchNorm1d),
    "conv2d": (nn.Conv2d, nn.BatchNorm2d),
    "conv3d": (nn.Conv3d, nn.BatchNorm3d),
    "transposed1d": (nn.ConvTranspose1d, nn.BatchNorm1d),
    "transposed2d": (nn.ConvTranspose2d, nn.BatchNorm2d),
    "transposed3d": (nn.ConvTranspose3d, nn.BatchNorm3d),
}


@dataclass(frozen=True)
class Replayed:
    """One case of a suite.

    Args:
        suite: the file that states it.
        norms: BatchNorms that are left; ``None`` where the suite leaves all, and bnfx need not.
        arithmetic: multiplications, divisions, additions and subtractions that are left; ``None``
            where the suite does not count them.
        more: the shapes of further inputs.
        random: whether the model is given random parameters.
    """

    suite: str
    name: str
    model: nn.Module
    shape: tuple[int, ...]
    norms: int | None = 0
    arithmetic: int | None = None
    dtype: torch.dtype = torch.float64
    more: tuple[tuple[int, ...], ...] = ()
    random: bool = True


def _layer(kind: str, ins: int, outs: int, bias: bool) -> nn.Module:
    layer, _ = PAIRS[kind]
    options = {} if kind == "linear" else {"kernel_size": 3, "stride": 2}
    return layer(ins, outs, bias=bias, **options)


def _shape(kind: str, size: int = 31) -> tuple[int, ...]:
    rank = 0 if kind == "linear" else int(kind[-2])
    size = 3 if kind.startswith("transposed") else {3: 15}.get(rank, size)
    return (4, 3, *(size,) * rank)


def _three_pairs(m: nn.Module, x: Tensor) -> Tensor:
    """A layer called twice, and a BatchNorm called twice, whose value is read twice."""
    x = m.bn1(m.conv1(input=x))
    x = m.bn2(input=m.conv2(m.conv2(x)))
    x = m.bn3(input=m.conv3(input=x))
    return m.bn3(x) + x


def _efficient() -> Iterator[Replayed]:
    suite = "test_efficient_conv_bn_eval"
    for kind, bias, sync in itertools.product(PAIRS, (True, False), (False, True)):
        norm = nn.SyncBatchNorm if sync else PAIRS[kind][1]
        name = f"{kind}-{'bias' if bias else 'plain'}-{'sync' if sync else 'local'}"
        pair = nn.Sequential(_layer(kind, 3, 8, bias), norm(8))
        yield Replayed(suite, f"pair-{name}", pair, _shape(kind))
        many = Fn(
            _three_pairs,
            conv1=_layer(kind, 3, 4, bias),
            conv2=_layer(kind, 4, 4, bias),
            conv3=_layer(kind, 4, 4, bias),
            bn1=norm(4),
            bn2=norm(4),
            bn3=norm(4),
        )
        shape = (2, 3, *(63,) * (len(_shape(kind)) - 2)) if "conv" in kind else _shape(kind)
        shape = (1, 3, 32, 32, 32) if kind == "conv3d" else shape
        shape = (1, 3, 1, 1, 1) if kind == "transposed3d" else shape
        # Upstream folds the first three and leaves the second call of bn3; so does bnfx.
        yield Replayed(suite, f"shared-{name}", many, shape)


OPS: dict[str, Callable[[Tensor, object], Tensor]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


def _after(op: str, kind: str, bias: bool, other: object) -> nn.Module:
    net = Fn(lambda m, x: OPS[op](m.conv(x), m.other), conv=_layer(kind, 3, 32, bias))
    return holding(net, "other", other)


def holding(net: nn.Module, name: str, value: object) -> nn.Module:
    """``net`` with a buffer, or a number."""
    if isinstance(value, torch.Tensor):
        net.register_buffer(name, value)
    else:
        setattr(net, name, value)
    return net


def _binary() -> Iterator[Replayed]:
    suite = "test_binary_folding"
    torch.manual_seed(0)
    for kind, op, bias in itertools.product(("conv1d", "conv2d", "conv3d"), OPS, (True, False)):
        rank = int(kind[-2])
        channels = torch.rand(1, 32, *(1,) * rank) + 0.5
        for form, other in (("tensor", channels), ("scalar", 2.0)):
            name = f"{kind}-{op}-{'bias' if bias else 'plain'}-{form}"
            # Upstream leaves a scalar alone; it is one number for each channel, and folds too.
            yield Replayed(suite, name, _after(op, kind, bias, other), (4, 3, *(4,) * rank), 0, 0)
    for op, bias in itertools.product(OPS, (True, False)):
        name = f"conv2d-{op}-{'bias' if bias else 'plain'}"
        for form, other, left in (
            ("rows", torch.rand(32, 1, 32) + 0.5, 1),
            ("one-number", torch.rand(1, 1) + 0.5, 0),
            ("integers", torch.tensor([2], dtype=torch.int32), None),
        ):
            # The output must have as many columns as the vector: it varies along them.
            size = 66 if form == "rows" else 4
            model = _after(op, "conv2d", bias, other)
            yield Replayed(suite, f"{name}-{form}", model, (4, 3, size, size), 0, left)
    for kind, bias in itertools.product(("conv1d", "conv2d", "conv3d"), (True, False)):
        pair = nn.Sequential(_layer(kind, 3, 32, bias), PAIRS[kind][1](32))
        name = f"{kind}-bn-{'bias' if bias else 'plain'}"
        yield Replayed(suite, name, pair, (4, 3, *(4,) * int(kind[-2])), 0, 0)


def _freezing() -> Iterator[Replayed]:
    suite = "test_inductor_freezing"
    for bias, dtype in itertools.product((True, False), (torch.bfloat16, torch.float32)):
        conv = nn.Conv2d(3, 32, 3, stride=2, bias=bias)
        pair = nn.Sequential(conv, nn.BatchNorm2d(32, eps=0.001))
        name = f"folded-{'bias' if bias else 'plain'}-{str(dtype)[6:]}"
        yield Replayed(suite, name, pair, (3, 3, 32, 32), 0, 0, dtype)
    alone = Fn(lambda m, x: m.bn(x) + 10, bn=nn.BatchNorm2d(32, eps=0.001))
    yield Replayed(suite, "unfolded-bn", alone, (3, 32, 15, 15))
    flat = Fn(
        lambda m, x: torch.flatten(m.conv(m.bn(x)), 1),
        bn=nn.BatchNorm2d(3),
        conv=nn.Conv2d(3, 16, 3, padding=1, bias=False),
    )
    yield Replayed(suite, "bn-before-conv", flat, (2, 3, 5, 5))
    doubled = Fn(lambda m, x: m.conv(x) * torch.full([1], 2.0), conv=nn.Conv2d(3, 8, 3, bias=False))
    yield Replayed(suite, "no-change-of-dtype", doubled, (3, 3, 8, 8), dtype=torch.bfloat16)

    def strided(m: nn.Module, x: Tensor) -> Tensor:
        padded = nn.functional.pad(m.conv(x), (2, 2, 2, 2))
        return torch.as_strided(padded, (2, 8, 2, 20, 12), (3200, 400, 160, 1, 20)).clone()

    for groups in (1, 2):
        conv = nn.Conv2d(8, 8, 1, bias=False, groups=groups)
        yield Replayed(suite, f"as-strided-{groups}", Fn(strided, conv=conv), (2, 8, 16, 16))


def _jit() -> Iterator[Replayed]:
    suite = "jit/test_freezing"
    for kind, bias, stats in itertools.product(
        ("conv1d", "conv2d", "conv3d"), (True, False), (True, False)
    ):
        norm = PAIRS[kind][1](32, eps=0.001, track_running_stats=stats)
        pair = nn.Sequential(_layer(kind, 3, 32, bias), norm)
        name = f"{kind}-{'bias' if bias else 'plain'}-{'tracked' if stats else 'untracked'}"
        # Without running statistics, the batch's own are used: nothing can be folded.
        shape = (4, 3, *(9,) * int(kind[-2]))
        yield Replayed(suite, name, pair, shape, 0 if stats else 1)


def _fx() -> Iterator[Replayed]:
    suite = "test_fx_experimental"

    def nested(m: nn.Module, x: Tensor) -> Tensor:
        return m.bn(m.nested(m.wrapped(m.bn(m.conv(x)))))

    conv, bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    model = Fn(
        nested,
        conv=conv,
        bn=bn,
        nested=nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        wrapped=nn.BatchNorm2d(4),
    )
    yield Replayed(suite, "nested", model, (2, 4, 5, 5))
    same = nn.Conv2d(4, 4, 1)
    two = Fn(
        lambda m, x: m.bn2(m.conv(m.bn1(m.conv(x)))),
        conv=same,
        bn1=nn.BatchNorm2d(4),
        bn2=nn.BatchNorm2d(4),
    )
    yield Replayed(suite, "one-conv-two-norms", two, (2, 4, 5, 5))
    odd = Fn(
        lambda m, x: m.bn(m.conv(x)) + m.conv(x), conv=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4)
    )
    yield Replayed(suite, "conv-called-again", odd, (2, 4, 5, 5))


CASES: list[Replayed] = [*_efficient(), *_binary(), *_freezing(), *_jit(), *_fx()]
