"""The facts that the suites of AIMET, coremltools, Glow, onnxscript and pnnx state on folding.

Sources read: AIMET ``TrainingExtensions/torch/test/python/test_bn_fold.py``; coremltools
``mil/passes/test_conv_batchnorm_fusion.py`` and ``test_conv_scale_fusion.py``; Glow
``tests/unittests/GraphOptzTest.cpp``, its cases on BatchNorm; onnxscript
``rewriter/rules/common/_fuse_batchnorm_test.py``; pnnx ``tools/pnnx/tests``, its files
``test_pnnx_fuse_*_batchnorm*``, of which the one-dimensional and two-dimensional ones were read.
What each asserts is stated anew in PyTorch; sizes are smaller where they prove no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from battery.conv import Fn
from peers.cases_pytorch import PAIRS, Replayed, holding
from support import LEAST_EPS
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class Several(Fn):
    """A model of several inputs."""

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def _onnxscript() -> Iterator[Replayed]:
    suite = "onnxscript _fuse_batchnorm_test"
    for name, layer in (("conv", nn.Conv2d), ("convtranspose", nn.ConvTranspose2d)):
        for bias in (False, True):
            pair = nn.Sequential(layer(32, 64, 3, bias=bias), nn.BatchNorm2d(64))
            yield Replayed(suite, f"{name}-{bias}", pair, (1, 32, 14, 16), 0, 0)
    for bias, transposed in itertools.product((False, True), (False, True)):

        def gemm(m: Any, x: Tensor, transposed: bool = transposed) -> Tensor:
            return m.bn(functional.linear(x, m.weight if transposed else m.weight.T, m.bias))

        model = Fn(gemm, bn=nn.BatchNorm1d(64))
        model.weight = nn.Parameter(torch.randn((64, 32) if transposed else (32, 64)))
        model.bias = nn.Parameter(torch.randn(64)) if bias else None
        # A weight that is transposed in the graph is a computed one: a multiply-add is left.
        left = 0 if transposed else 2
        yield Replayed(suite, f"gemm-{bias}-{transposed}", model, (1, 32), 0, left)

    def given(m: Any, x: Tensor, w: Tensor, *rest: Tensor) -> Tensor:
        bias, gamma, beta, mean, var = rest
        return functional.batch_norm(functional.conv2d(x, w, bias), mean, var + 1, gamma, beta)

    shapes = ((8, 4, 3, 3), *[(8,)] * 5)
    yield Replayed(
        suite, "all-parameters-are-inputs", Several(given), (1, 4, 7, 8), None, more=shapes
    )

    def weight_given(m: Any, x: Tensor, w: Tensor) -> Tensor:
        return m.bn(functional.conv2d(x, w))

    model = Several(weight_given, bn=nn.BatchNorm2d(8))
    yield Replayed(suite, "the-weight-is-an-input", model, (1, 4, 7, 8), None, more=((8, 4, 3, 3),))


def _aimet_model() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.bn1(m.conv1(x)))
        x = torch.relu(m.conv2(x))
        x = m.conv4(m.conv3(m.bn2(x)))
        x = m.bn3(x) + m.bn4(x)
        return m.fc1(x.view(x.size(0), -1))

    convs = {"conv1": (10, 20), "conv2": (20, 15), "conv3": (15, 20), "conv4": (20, 20)}
    layers: dict[str, nn.Module] = {name: nn.Conv2d(*size, 3) for name, size in convs.items()}
    layers |= {f"bn{at}": nn.BatchNorm2d(size) for at, size in ((1, 20), (2, 15), (3, 20), (4, 20))}
    return Fn(run, **layers, fc1=nn.Linear(20 * 4 * 4, 10))


def _aimet() -> Iterator[Replayed]:
    suite = "AIMET test_bn_fold"
    block = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
    )
    yield Replayed(suite, "two-conv-layers", block, (1, 8, 12, 12), 0, 0)
    for bias in (False, True):
        before = (nn.Conv2d(10, 20, 2, bias=bias), nn.ReLU(), nn.BatchNorm2d(20))
        net = nn.Sequential(*before, nn.Conv2d(20, 40, 2, bias=bias))
        yield Replayed(suite, f"before-conv-{bias}", net, (20, 10, 4, 4), 0, 0)
        net = nn.Sequential(nn.Conv2d(10, 20, 3, bias=bias), nn.BatchNorm2d(20), nn.ReLU())
        yield Replayed(suite, f"after-conv-{bias}", net, (2, 10, 24, 24), 0, 0)
        net = nn.Sequential(nn.BatchNorm1d(10), nn.Linear(10, 20, bias=bias))
        yield Replayed(suite, f"before-linear-{bias}", net, (32, 10), 0, 0)
        net = nn.Sequential(nn.Linear(10, 20, bias=bias), nn.BatchNorm1d(20))
        yield Replayed(suite, f"after-linear-{bias}", net, (32, 10), 0, 0)
    # Upstream leaves two BatchNorms of one convolution, and their sum: here they are one map.
    for name in ("find", "auto-mode"):
        yield Replayed(suite, name, _aimet_model(), (2, 10, 12, 12), 0, 0)
    layers = (nn.ConvTranspose2d(10, 10, 3), nn.BatchNorm2d(10), nn.ReLU())
    net = nn.Sequential(*layers, nn.ConvTranspose2d(10, 10, 3), nn.BatchNorm2d(10))
    yield Replayed(suite, "transposed", net, (10, 10, 4, 4), 0, 0)

    def two(m: Any, x: Tensor, y: Tensor) -> Tensor:
        other = m.ada(m.conv3(m.bn2(m.conv2(y))))
        z = m.pool(torch.relu_(m.bn1(m.conv1(x)) + other))
        return m.fc(z.view(z.size(0), -1))

    net = Several(
        two,
        conv1=nn.Conv2d(3, 16, 2, stride=2, padding=2, bias=False),
        bn1=nn.BatchNorm2d(16),
        conv2=nn.Conv2d(3, 8, 3, stride=2, padding=2),
        bn2=nn.BatchNorm2d(8),
        conv3=nn.Conv2d(8, 16, 3, stride=2, padding=2),
        ada=nn.AdaptiveAvgPool2d(18),
        pool=nn.MaxPool2d(2, stride=2, padding=1),
        fc=nn.Linear(1600, 3),
    )
    yield Replayed(suite, "two-inputs", net, (1, 3, 32, 32), 0, 1, more=((1, 3, 20, 20),))


CONVS = {"conv": (nn.Conv1d, nn.Conv2d), "transposed": (nn.ConvTranspose1d, nn.ConvTranspose2d)}


def _scaled(op: str, left: bool, scale: object, layer: nn.Module) -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        if op == "div":
            return y / m.scale
        return m.scale * y if left else y * m.scale

    net = Fn(run, conv=layer)
    return holding(net, "scale", scale)


def _coremltools() -> Iterator[Replayed]:
    suite = "coremltools conv-batchnorm"
    for kind, (_, layer) in CONVS.items():
        same = nn.Sequential(layer(10, 20, 1, groups=10), nn.BatchNorm2d(20, eps=LEAST_EPS))
        yield Replayed(suite, f"identity-{kind}", same, (1, 10, 2, 2), 0, 0, random=False)
        for dtype in (torch.bfloat16, torch.float32):
            pair = nn.Sequential(layer(10, 20, 1, groups=10), nn.BatchNorm2d(20, eps=0.1))
            yield Replayed(suite, f"{kind}-{dtype}", pair, (1, 10, 2, 2), 0, 0, dtype)
    for kind, rank, groups, bias in itertools.product(CONVS, (1, 2), (1, 2, 10), (False, True)):
        conv = CONVS[kind][rank - 1](10, 30, (2, 3)[:rank], groups=groups, bias=bias)
        pair = nn.Sequential(conv, (nn.BatchNorm1d, nn.BatchNorm2d)[rank - 1](30, eps=1e-2))
        name = f"{kind}{rank}d-{groups}-{bias}"
        yield Replayed(suite, name, pair, (2, 10, *(7, 8)[:rank]), 0, 0)


def _coremltools_scale() -> Iterator[Replayed]:
    suite = "coremltools conv-scale"
    each = torch.arange(1.0, 21.0)  # upstream starts at 0, and divides by it
    scales: dict[str, object] = {
        "python": 12.7,
        "numpy": torch.tensor(12.7),
        "0d": torch.tensor(12.7),
        "1d": torch.tensor([12.7]),
        "3d": each.view(20, 1, 1),
        "4d": each.view(1, 20, 1, 1),
    }
    for kind, op, left, form in itertools.product(CONVS, ("mul", "div"), (False, True), scales):
        conv = CONVS[kind][1](10, 20, 1, groups=10)
        net = _scaled(op, left, scales[form], conv)
        yield Replayed(suite, f"form-{kind}-{op}-{left}-{form}", net, (1, 10, 2, 2), 0, 0)
    choices = (CONVS, (1, 2), (1, 10), (False, True), ("mul", "div"), ("scalar", "vector"))
    for kind, rank, groups, bias, op, form in itertools.product(*choices):
        conv = CONVS[str(kind)][rank - 1](10, 30, (2, 3)[:rank], groups=groups, bias=bias)
        vector = torch.arange(1.0, 31.0).view(1, 30, *(1,) * rank)
        net = _scaled(op, False, torch.tensor([2.3]) if form == "scalar" else vector, conv)
        name = f"{kind}{rank}d-{groups}-{bias}-{op}-{form}"
        yield Replayed(suite, name, net, (2, 10, *(7, 8)[:rank]), 0, 0)


# Channels, kernel and options by the layer; a pair is of the last two axes.
PNNX: dict[str, list[tuple[int, Any, dict[str, Any]]]] = {
    "conv": [
        (16, 3, {}),
        (20, (2, 4), {"stride": (2, 1), "padding": 2}),
        (24, (1, 3), {"padding": (2, 4), "bias": False}),
        (28, (5, 4), {"padding": "valid", "groups": 4}),
        (32, 3, {"padding": "same", "dilation": (1, 2), "groups": 2, "bias": False}),
        (32, 2, {"stride": 2, "padding": 3, "groups": 32, "padding_mode": "reflect"}),
        (28, 2, {"padding": 2, "bias": False, "padding_mode": "replicate"}),
    ],
    "transposed": [
        (16, 3, {}),
        (20, (2, 4), {"stride": (2, 1), "padding": 2}),
        (24, (1, 3), {"padding": (2, 4), "bias": False}),
        (28, (5, 4), {"stride": 2, "output_padding": (0, 1), "groups": 4}),
        (32, 3, {"padding": 1, "dilation": (1, 2), "groups": 2, "bias": False}),
        (32, 2, {"stride": 2, "padding": 3, "output_padding": 1, "groups": 32}),
        (28, 2, {"padding": 2, "bias": False}),
        (24, 3, {"stride": 2, "padding": (5, 6), "output_padding": (1, 0), "dilation": 2}),
    ],
}


def _pnnx() -> Iterator[Replayed]:
    suite = "pnnx fuse_*_batchnorm"

    def both(m: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return m.layers(x), m.layers(y)

    layers = [nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 3)]
    net = Several(both, layers=nn.Sequential(*layers, nn.BatchNorm1d(3)))
    yield Replayed(suite, "linear", net, (1, 64), 0, 0, more=((12, 64),))

    for kind, rank in itertools.product(PNNX, (1, 2, 3)):

        def fit(value: Any, rank: int = rank) -> Any:
            return ((value[0],) * 3 + value[1:])[-rank:] if isinstance(value, tuple) else value

        layer, norm = PAIRS[f"{kind}{rank}d"]
        layers: list[nn.Module] = []
        ins = 12
        for at, (out, kernel, options) in enumerate(PNNX[kind]):
            known = {name: fit(value) for name, value in options.items()}
            layers.append(layer(ins, out, fit(kernel), **known))
            plain = kind == "transposed" and at in (2, 3)
            layers.append(norm(out, eps=1e-1, affine=False) if plain else norm(out))
            ins = out
        size = {"conv": (40, 20, 16), "transposed": (20, 10, 8)}[kind][rank - 1]
        yield Replayed(
            suite, f"{kind}{rank}d", nn.Sequential(*layers), (1, 12, *(size,) * rank), 0, 0
        )


def _last(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm along the last axis, as Glow has it."""
    last = x.dim() - 1
    there, back = [0, last, *range(1, last)], [0, *range(2, last + 1), 1]
    return norm(x.permute(there)).permute(back)


def _glow() -> Iterator[Replayed]:
    suite = "Glow GraphOptz"
    shape = (1, 3, 6, 8)

    def conv() -> nn.Module:
        return nn.Conv2d(3, 16, 5, padding=2)

    def reshaped(*sizes: int) -> Callable[..., Tensor]:
        return lambda m, x: _last(m.bn, m.conv(x).permute(0, 2, 3, 1).reshape(sizes))

    alone = Fn(lambda m, x: m.bn(x.reshape(32, 64, 1)), bn=nn.BatchNorm1d(64))
    yield Replayed(suite, "SkipReshapeSinkBatchNorm", alone, (32, 64), 0, 2)
    for name, sizes, channels, left in (
        ("AfterConvAndReshapeNHWC", (1, 8, 6, 16), 16, 0),
        ("AfterConvAndReshapeNHWC2", (1, 48, 16), 16, 0),
        ("AfterConvAndReshapeNHWCneg", (1, 6, 4, 32), 32, 2),
    ):
        norm = nn.BatchNorm1d if len(sizes) == 3 else nn.BatchNorm2d
        yield Replayed(
            suite, name, Fn(reshaped(*sizes), conv=conv(), bn=norm(channels)), shape, 0, left
        )

    def two_users(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.reshape(1, 8, 5, 6)
        return m.bn(y), y

    net = Fn(two_users, bn=nn.BatchNorm2d(8))
    yield Replayed(suite, "sinkReshapeBelowBatchNormMultiUser", net, (1, 8, 3, 10), 0, 2)
    other = Fn(lambda m, x: m.bn(m.conv(x).reshape(1, 6, 16, 8)), conv=conv(), bn=nn.BatchNorm2d(6))
    yield Replayed(suite, "sinkReshapeBelowBatchNormAndDoNotFuse", other, shape, 0, 2)
    pair = nn.Sequential(conv(), nn.BatchNorm2d(16, eps=1e-4))
    yield Replayed(suite, "AfterConv", pair, shape, 0, 0)
    half = nn.Sequential(conv(), nn.BatchNorm2d(16, eps=1e-4))
    yield Replayed(suite, "AfterConvFP16", half, shape, 0, 0, torch.bfloat16)
    statistics = (
        (1.0, 0.0, 1.0, 0.0),
        (1.0, 33.0, 1.0, 0.0),
        (1 - 1e-6, 33.0, 1.0, 1e-6),
        (225.0, -3.0, 15.0, 0.0),
    )
    for at, (var, mean, gamma, eps) in enumerate(statistics):
        norm = nn.BatchNorm2d(3, eps=eps)
        for tensor, value in zip(
            (norm.running_var, norm.running_mean, norm.weight, norm.bias),
            (var, mean, gamma, mean),
            strict=True,
        ):
            assert tensor is not None
            nn.init.constant_(tensor, value)
        net = nn.Sequential(norm, nn.LocalResponseNorm(2))
        # Glow drops a BatchNorm that does nothing; here its parameters may change any time.
        yield Replayed(suite, f"optimizeRedundantBatchNorm{at + 1}", net, shape, 0, random=False)

    def saved(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return m.bn(m.conv(x)), m.conv.weight * 1, m.conv.bias * 1

    net = Fn(saved, conv=conv(), bn=nn.BatchNorm2d(16))
    yield Replayed(suite, "AfterConvMultiple", net, shape, 0, 2)

    def transposed(*order: int) -> Callable[..., Tensor]:
        def run(m: Any, x: Tensor) -> Tensor:
            weight = m.weight.permute(*order)
            return m.bn(functional.conv2d(x, weight, m.bias, padding=2))

        return run

    for name, order, sizes, out in (
        ("AfterConvWithTransposedWeights", (0, 3, 1, 2), (16, 5, 5, 3), 16),
        ("AfterConvWithReshapeConst", (3, 2, 0, 1), (5, 5, 3, 1), 1),
    ):
        net = Fn(transposed(*order), bn=nn.BatchNorm2d(out))
        net.weight, net.bias = nn.Parameter(torch.randn(sizes)), nn.Parameter(torch.randn(out))
        yield Replayed(suite, name, net, shape, 0)

    def chain(y: Tensor) -> Tensor:
        each = torch.arange(1.0, y.shape[1] + 1, dtype=y.dtype).view(-1, 1, 1)
        return (3 + (y - each) * 4) / 2

    net = Fn(lambda m, x: chain(m.bn(x)), bn=nn.BatchNorm2d(4))
    yield Replayed(suite, "MergeBatchNormalizationWithArithmeticChain", net, (3, 4, 2, 2), 0)
    net = Fn(lambda m, x: chain(m.conv(x)), conv=nn.Conv2d(3, 3, 2, padding=1))
    yield Replayed(suite, "FoldArithmeticChainAfterConvIntoBatchNorm", net, (2, 3, 2, 2), 0)

    def reused(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = m.conv(x)
        return m.bn(y), y

    net = Fn(reused, conv=conv(), bn=nn.BatchNorm2d(16))
    yield Replayed(suite, "AfterConvButConvReused", net, shape, 0, 2)


CASES: list[Replayed] = [
    *_onnxscript(),
    *_aimet(),
    *_coremltools(),
    *_coremltools_scale(),
    *_pnnx(),
    *_glow(),
]
