"""Models of torch imported into Relax: what TVM's importer takes, and what it takes by our help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import tvm
from relax.graphs import count
from relax.models import randomised
from torch import nn

import bnfx
import bnfx.tvm
from bnfx.errors import BuildError, TrainingModeError
from bnfx.tvm.relax import FoldBatchNorm, Runner

# LLVM's own optimisations take three quarters of a build, and prove nothing of the import.
TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 0})


def _conv(spatial: int, **options: Any) -> nn.Module:
    conv, norm = (getattr(nn, f"{kind}{spatial}d") for kind in ("Conv", "BatchNorm"))
    return nn.Sequential(conv(4, 8, 3, **options), norm(8), nn.ReLU())


def _transposed(spatial: int, **options: Any) -> nn.Module:
    conv, norm = (getattr(nn, f"{kind}{spatial}d") for kind in ("ConvTranspose", "BatchNorm"))
    return nn.Sequential(conv(4, 8, 3, **options), norm(8))


class _Sequence(nn.Module):
    """BatchNorm1d behind a linear layer, its channels in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.linear(x).transpose(1, 2))
        return out


class _Frozen(nn.Module):
    """Detectron's FrozenBatchNorm: arithmetic with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, bias=False)
        for name, low in (("weight", -1.0), ("bias", -1.0), ("mean", -1.0), ("var", 0.2)):
            self.register_buffer(name, torch.rand(8) * 1.5 + low)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.var + 1e-5).rsqrt()
        shift = self.bias - self.mean * scale
        y: torch.Tensor = self.conv(x)
        return y * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class _Joined(nn.Module):
    """Chunks, a concatenation, a channel shuffle and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = torch.chunk(self.conv(x), 2, 1)
        y = torch.cat([other, one], 1)
        n, c, h, w = y.shape
        y = y.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = nn.functional.avg_pool2d(y, 2)
        out: torch.Tensor = self.norm(y)
        return out


class _Branches(nn.Module):
    """RepVGG's three arms."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.narrow = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.identity = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.wide(x) + self.narrow(x) + self.identity(x))


X1, X2, X3 = (2, 4, 9), (2, 4, 9, 8), (2, 4, 5, 6, 5)
MODELS: list[Any] = [
    *(
        pytest.param(lambda s=s, o=o: _conv(s, **o), shape, 1, id=f"conv{s}d-{name}")
        for s, shape in ((1, X1), (2, X2), (3, X3))
        for name, o in (
            ("plain", {"bias": False}),
            ("bias", {"padding": 1}),
            ("grouped", {"groups": 2, "stride": 2}),
        )
    ),
    *(
        pytest.param(lambda s=s, o=o: _transposed(s, **o), shape, 1, id=f"transposed{s}d-{name}")
        for s, shape in ((1, X1), (2, X2), (3, X3))
        for name, o in (("plain", {}), ("strided", {"stride": 2, "output_padding": 1}))
    ),
    pytest.param(lambda: _transposed(2, groups=2, bias=False), X2, 1, id="transposed2d-grouped"),
    pytest.param(lambda: _conv(2, padding="same"), X2, 1, id="same"),
    pytest.param(lambda: _conv(2, padding=1, padding_mode="reflect"), X2, 1, id="reflect"),
    pytest.param(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (3, 6), 1, id="linear"),
    pytest.param(_Sequence, (2, 3, 6), 1, id="linear-transposed"),
    pytest.param(_Frozen, X2, 0, id="frozen"),
    pytest.param(_Joined, X2, 1, id="joined"),
    pytest.param(_Branches, X2, 3, id="repvgg"),
    pytest.param(
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=1)),
        X2,
        1,
        id="before-padded",
    ),
    pytest.param(
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, affine=False)),
        X2,
        1,
        id="no-affine",
    ),
    pytest.param(
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.Dropout(), nn.BatchNorm2d(8)),
        X2,
        1,
        id="dropout",
    ),
    pytest.param(
        lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2), nn.BatchNorm2d(2)),
        X2,
        1,
        id="pixel-shuffle",
    ),
]


def _compared(model: nn.Module, *inputs: torch.Tensor) -> tuple[bnfx.Report, Any, float]:
    """The report, the folded module and the relative error of what was built against torch."""
    with torch.no_grad():
        expected = model(*inputs)
    module = bnfx.tvm.from_torch(model, *inputs)
    reports: list[bnfx.Report] = []
    executable = bnfx.tvm.build(module, TARGET, report=reports.append)
    (ours,) = Runner(executable)(*inputs)
    assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
    error = (ours.double() - expected.double()).abs().max() / expected.double().abs().max()
    return reports[0], module, float(error)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("make", "shape", "folded"), MODELS)
def test_an_imported_model_is_torch(
    make: Callable[[], nn.Module], shape: tuple[int, ...], folded: int
) -> None:
    model = randomised(make().double())
    report, _, error = _compared(model, torch.randn(*shape, dtype=torch.float64))
    assert report.count("folded") == folded
    assert report.count("lowered") == report.count("kept") == 0
    assert error < 1e-10


def test_factors_of_a_linear_layer_are_read() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))
            self.bias = nn.Parameter(torch.randn(5))
            self.norm = nn.BatchNorm1d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.addmm(self.bias, x, self.weight, beta=0.5, alpha=-2.0)
            out: torch.Tensor = self.norm(y)
            return out

    report, _, error = _compared(randomised(Scaled()), torch.randn(3, 6))
    assert report.count("folded") == 1
    assert error < 1e-5


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("make", [lambda: _conv(2), lambda: _transposed(2), lambda: _conv(3)])
def test_other_dtypes(make: Callable[[], nn.Module], dtype: torch.dtype, bound: float) -> None:
    """TVM's importer cannot take a convolution with a bias that is not of float32."""
    model = randomised(make()).to(dtype)
    shape = X3 if isinstance(next(model.children()), nn.Conv3d) else X2
    _, _, error = _compared(model, torch.randn(*shape).to(dtype))
    assert error < bound


def test_a_half_batch_norm_alone() -> None:
    model = randomised(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))).half()
    report, _, error = _compared(model, torch.randn(*X2).half())
    assert report.count("lowered") == 1
    assert error < 2e-3


@pytest.mark.parametrize("rules", ["all", "none"])
def test_a_half_batch_norm_that_stays_is_half(rules: str) -> None:
    """TVM's own build answers in float32, and cannot build what reads that as float16."""
    norms = (nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model = randomised(nn.Sequential(nn.ReLU(), *norms, nn.Sigmoid())).half()
    x = torch.randn(*X2).half()
    module = bnfx.tvm.from_torch(model, x)
    (ours,) = Runner(bnfx.tvm.build(module, TARGET, rules=rules))(x)
    assert ours.dtype is torch.float16
    torch.testing.assert_close(ours, model(x).detach(), rtol=2e-3, atol=2e-3)


def test_the_batch_may_stay_free() -> None:
    model = randomised(_conv(2, padding=1))
    x = torch.randn(2, 4, 6, 7)
    shapes = ({0: torch.export.Dim("batch")},)
    module = bnfx.tvm.from_torch(model, x, dynamic_shapes=shapes)
    executable = bnfx.tvm.build(module, TARGET)
    for batch in (1, 5):
        x = torch.randn(batch, 4, 6, 7)
        (ours,) = Runner(executable)(x)
        torch.testing.assert_close(ours, model(x).detach(), rtol=1e-5, atol=1e-5)


def test_an_exported_program_is_taken() -> None:
    model = randomised(_conv(2))
    x = torch.randn(*X2)
    module = bnfx.tvm.from_torch(torch.export.export(model, (x,)))
    assert count(module)["nn.batch_norm"] == 1
    (ours,) = Runner(bnfx.tvm.build(module, TARGET))(x)
    torch.testing.assert_close(ours, model(x).detach(), rtol=1e-5, atol=1e-5)


def test_training_is_refused() -> None:
    with pytest.raises(TrainingModeError, match="1 is in training"):
        bnfx.tvm.from_torch(_conv(2), torch.randn(*X2))


def test_unknown_ops_are_named() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x).real

    with pytest.raises(BuildError, match="_fft_r2c"):
        bnfx.tvm.from_torch(Spectrum(), torch.randn(*X2))


F = nn.functional
_X, _V, _N = torch.randn(1, 2, 6, 6), torch.randn(5, 7), torch.randint(-9, 9, (4, 5))
_HALF = torch.full((1, 1, 64, 64), 3.0).half()
_HOLES = torch.tensor([float("nan"), 1.0, -2.0, float("inf")])
# What TVM's importer gets wrong: (a function, its input, whether it is right by our help).
FAULTY: dict[str, tuple[Callable[..., Any], torch.Tensor, bool]] = {
    "last": (lambda a: a[:, -1] * 1, _V, True),
    "list": (lambda a: a[:, [-1, 0]], _V, True),
    "several": (lambda a: a[:, torch.tensor([0, 1]), :, torch.tensor([2, 3])], _X, False),
    "computed": (lambda a: a[a[:, 0].long()], _V, False),
    "alpha": (lambda a: torch.add(a, a.flip(0), alpha=3), _V, True),
    "sub-alpha": (lambda a: torch.sub(a, a.flip(0), alpha=0.5), _V, True),
    "rsub-alpha": (lambda a: torch.rsub(a, a.flip(0), alpha=3), _V, True),
    "int-float": (lambda a: a + 1.5, _N, False),
    "int-division": (lambda a: a / 3, _N, False),
    "by-zero": (lambda a: a / 0, _V, True),
    "by-zero-tensor": (lambda a: a / torch.tensor(0.0), _V, True),
    "by-little": (lambda a: a / 1e-50, _V, True),
    "times-zero": (lambda a: a * 0, _HOLES, True),
    "plus-zero": (lambda a: torch.reciprocal(a * -0.0 + 0.0), _V.abs(), True),
    "zero-d": (lambda a: a * torch.tensor(2.0, dtype=torch.float64), _V, False),
    "scale": (lambda a: F.interpolate(a, scale_factor=1.7, mode="bilinear"), _X, True),
    "scale-nearest": (lambda a: F.interpolate(a, scale_factor=1.7), _X, True),
    "size-nearest": (lambda a: F.interpolate(a, size=(7, 9)), _X, True),
    "whole-scale": (lambda a: F.interpolate(a, scale_factor=2.0, mode="bilinear"), _X, True),
    "antialias": (
        lambda a: F.interpolate(a, size=(3, 3), mode="bilinear", antialias=True),
        _X,
        False,
    ),
    "divisor": (lambda a: F.avg_pool2d(a, 2, divisor_override=3), _X, False),
    "dilated": (lambda a: F.max_pool2d(a, 2, dilation=2), _X, True),
    "indices": (lambda a: F.max_pool2d(a, 2, return_indices=True)[1], _X, False),
    "elu": (F.elu, _HOLES, True),
    "selu": (F.selu, _V, True),
    "grid": (lambda a: F.grid_sample(a, a[:, :, :3, :2] * 0, align_corners=False), _X, False),
    "half-mean": (lambda a: a.mean((2, 3)), _HALF, True),
    "half-adaptive": (lambda a: F.adaptive_avg_pool2d(a, 2), _HALF, True),
    "clamp": (lambda a: a.clamp(2, -1), _V, True),
    "relu": (F.relu, _HOLES, True),
    "two": (lambda a: torch.maximum(a, a.flip(0)) + torch.minimum(a.flip(0), a), _HOLES, True),
    "largest": (lambda a: a.view(2, 2).max(1)[0] + a.view(2, 2).amin(0), _HOLES, True),
    "pool": (lambda a: F.max_pool2d(a.view(1, 1, 2, 2), 2, 1, 1), _HOLES, True),
    "pool-1d": (lambda a: F.max_pool1d(a.view(1, 4), 3, 2, 1, ceil_mode=True), _HOLES, True),
    "long-mean": (
        lambda a: a.mean((2, 3)) + a.sum((2, 3)),
        torch.full((1, 2, 224, 224), 0.1),
        True,
    ),
    "tanh-double": (lambda a: torch.tanh(a * 1e-9), _V.double(), True),
    "minus-zero": (lambda a: torch.reciprocal(torch.tanh(a) * 1.0), _V.abs() * -0.0, True),
    "holes": (lambda a: a.clamp(-1, 1) + F.relu6(a), _HOLES, True),
    "full": (lambda a: a + torch.full((5, 7), -torch.inf).triu(1)[:, :7], _V, True),
    "full-like": (lambda a: torch.where(a > 0, a, torch.full_like(a, torch.nan)), _V, True),
    "new-full": (lambda a: torch.maximum(a, a.new_full((1, 7), torch.inf)), _V.half(), True),
    "no-factors": (
        lambda a: (
            torch.addmm(a, a.new_ones(3, 2), a.new_ones(2, 4), beta=0)
            + torch.addmm(a.new_ones(4), a[:3, None], a[None], alpha=0)
        ),
        _HOLES,
        True,
    ),
    "dropout": (lambda a: F.dropout(a, 0.5, True), _V, False),
    "random": (lambda a: a + torch.randn_like(a), _V, False),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FAULTY)
def test_what_tvm_gets_wrong_is_right_or_refused(name: str) -> None:
    function, x, repaired = FAULTY[name]

    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return function(x)

    if not repaired:
        with pytest.raises(BuildError, match=r"\.(Tensor|default|Scalar)\w* "):
            bnfx.tvm.from_torch(Module(), x)
        return
    module = bnfx.tvm.from_torch(Module(), x)
    before = module.script()
    (ours,) = Runner(bnfx.tvm.build(module, TARGET))(x)
    torch.testing.assert_close(ours, function(x), equal_nan=True)
    assert module.script() == before


def test_what_a_runner_returns_owns_its_memory() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("numbers", torch.arange(4.0))

        def forward(self, x: torch.Tensor) -> Any:
            return x.view(-1), self.numbers + 0, x * 2, (x * 2).view(-1)

    x = torch.ones(2, 2)
    run = Runner(bnfx.tvm.build(bnfx.tvm.from_torch(Module(), x), TARGET))
    for _ in range(2):
        first, numbers, twice, flat = run(x)
        for value in (first, numbers, twice):
            value.zero_()
        assert flat.tolist() == [2.0] * 4
        assert x.tolist() == [[1.0, 1.0]] * 2
    assert run(x)[1].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.slow
def test_folding_first_removes_what_the_importer_cannot_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An importer without BatchNorm, as TVM's own for torch.compile is."""
    from bnfx.tvm.converters import CONVERTERS

    def refuse(node: Any, importer: Any) -> Any:
        raise ValueError("no batch_norm here")

    name = "_native_batch_norm_legit_no_training.default"
    monkeypatch.setitem(CONVERTERS, name, refuse)
    model = randomised(_conv(2))
    _, module, error = _compared(model, torch.randn(*X2))
    assert count(module)["nn.batch_norm"] == 0
    assert error < 1e-5


@pytest.mark.slow
def test_torch_and_tvm_go_together_in_either_order() -> None:
    """This process imported them in one order, another one does so in the other."""
    import subprocess
    import sys

    x = tvm.runtime.from_dlpack(torch.ones(3))
    assert x.numpy().sum() == torch.from_dlpack(x).sum() == 3
    later, earlier = sorted(("torch", "tvm"), key=list(sys.modules).index)[::-1]
    program = (
        f"import {later}, {earlier}, torch, tvm\n"
        "from tvm import relax\n"
        "x = tvm.runtime.from_dlpack(torch.ones(3))\n"
        "assert x.numpy().sum() == torch.from_dlpack(x).sum() == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_reports_name_the_modules_of_the_model() -> None:
    model = randomised(
        nn.Sequential(_conv(2), nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)))
    )
    fold = FoldBatchNorm()
    fold(bnfx.tvm.from_torch(model, torch.randn(1, 4, 6, 6)))
    assert [verdict.site.name for verdict in fold.report.verdicts] == ["0.1", "1.1"]
    assert fold.report.count("folded") == 2


def test_names_of_modules_stay_apart_from_numbers() -> None:
    """A layer that runs twice is numbered, and another layer may have that number as its name."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.bn_1 = nn.Conv2d(4, 4, 1), *map(nn.BatchNorm2d, (4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn_1(self.bn(self.bn(self.conv(x)).relu()).relu())

    fold = FoldBatchNorm()
    fold(bnfx.tvm.from_torch(randomised(Named()), torch.randn(1, 4, 6, 6)))
    assert [verdict.site.name for verdict in fold.report.verdicts] == ["bn", "bn_1", "bn_1_1"]
