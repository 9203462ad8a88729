"""Fine-tuning with BatchNorms in evaluation: the fold is in the graph, gradients are eager's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import Capture, count_batch_norms, randomise, relative
from torch import nn

import bnfx

BOUND = 1e-12


class Net(nn.Module):
    """A BatchNorm before a padded convolution, computed weights, groups, a transposed convolution,
    one across a pool, one on a linear layer, one that can only be lowered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.conv, self.norm = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), None
        self.norm = nn.BatchNorm2d(8)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, groups=2))
        self.pooled = nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4)
        self.linear, self.linear_norm = nn.Linear(4, 5), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(self.pre(x))), inplace=True)
        x = self.pooled(F.avg_pool2d(self.computed(x), 2))
        x = self.alone(self.up_norm(self.up(x)).tanh()).relu()
        return self.linear_norm(self.linear(x.mean((2, 3))))


def net() -> Net:
    return randomise(Net()).double().eval()


X = torch.randn(2, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def gradients(call: Any, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor | None]:
    """Of ``x`` and each parameter, for a loss that weighs every output differently."""
    x = x.clone().requires_grad_()
    model.zero_grad(set_to_none=True)
    out = call(x)
    factors = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    ((out * factors).sum() + out.square().sum()).backward()
    return [x.grad, *(None if p.grad is None else p.grad.clone() for p in model.parameters())]


def assert_same(ours: list[torch.Tensor | None], theirs: list[torch.Tensor | None]) -> None:
    assert [g is None for g in ours] == [g is None for g in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if other is not None and other.abs().max() > 0:
            assert relative(mine, other) < BOUND


def two_convolutions() -> nn.Module:
    """What Inductor's own code is tried on: it takes a minute for all of :class:`Net`."""
    layers = [nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    return randomise(model).double().eval()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("inner", "dynamic", "make", "folds"),
    [
        ("eager", None, net, 4),
        ("aot_eager", True, net, 4),
        ("inductor", None, two_convolutions, 3),
    ],
)
def test_gradients_are_eagers(
    inner: str, dynamic: bool | None, make: Callable[[], nn.Module], folds: int
) -> None:
    model, reports = make(), []
    options = {"inner": inner, "report": reports.append}
    compiled = torch.compile(model, backend="bnfx", options=options, dynamic=dynamic)
    for size in (10, 12):
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        assert relative(compiled(x), model(x)) < BOUND
        assert_same(gradients(compiled, model, x), gradients(model, model, x))
    for report in reports:
        assert [graph.weights for graph in report.graphs] == ["traced"]
        assert "gradients are needed" in str(report)
        assert report.count("kept") == 0
    assert reports[0].count("folded") >= folds


def test_training_steps_are_seen_and_no_code_is_compiled_for_them() -> None:
    """Weights, gamma and beta move at each step; statistics are written to by hand."""
    model, capture = net(), Capture()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, fused=True) for m in (model, twin)]
    for step in range(4):
        for call, owner, optimizer in zip((compiled, twin), (model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            call(X + step).square().mean().backward()
            optimizer.step()
            owner.norm.running_mean.data.add_(0.5)
        assert relative(compiled(X), twin(X)) < BOUND
    assert len(capture.graphs) == 1
    assert count_batch_norms(capture.graphs[0]) == 0


@pytest.mark.parametrize("frozen", ["conv", "norms", "all", "affine-only"])
def test_gradients_wanted_in_part(frozen: str) -> None:
    model = net()
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name or "pre" in name or "pooled" in name or "alone" in name
        wanted = {
            "conv": is_norm,
            "norms": not is_norm,
            "all": False,
            "affine-only": name == "norm.weight",
        }
        parameter.requires_grad_(wanted[frozen])
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    assert_same(gradients(compiled, model, X), gradients(model, model, X))


def test_double_backward() -> None:
    model = net()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})

    def penalty(call: Any) -> list[torch.Tensor]:
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(first.square().sum(), list(model.parameters())[2:6]))

    for ours, theirs in zip(penalty(compiled), penalty(model), strict=True):
        assert relative(ours, theirs) < 1e-11


def test_batch_norms_in_training_stay() -> None:
    """Some BatchNorms frozen, some training: the usual detection fine-tuning."""
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    layers.append(nn.Conv2d(6, 4, 3, bias=False))  # one before a BatchNorm has no gradient
    model = randomise(nn.Sequential(*layers, nn.BatchNorm2d(4))).double().train()
    model[1].eval()
    twin, capture = copy.deepcopy(model), Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    for _ in range(3):
        assert_same(gradients(compiled, model, X), gradients(twin, twin, X))
    torch.testing.assert_close(model[4].running_var, twin[4].running_var, rtol=1e-12, atol=0)
    assert model[4].num_batches_tracked == 3
    assert capture.reports[0].count("folded") == capture.reports[0].count("kept") == 1
    assert count_batch_norms(capture.graphs[0]) == 1


def test_statistics_that_the_graph_writes_to_stay() -> None:
    class Updating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.norm.running_mean.mul_(0.9)
            return self.norm(self.conv(x))

    model = randomise(Updating()).double().eval()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    for _ in range(3):
        assert_same(gradients(compiled, model, X), gradients(twin, twin, X))


def test_signs_decide_nothing() -> None:
    """A positive scale may turn negative at the next step: no route may rely on it."""
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4))
    ).double()
    model.eval()[2].weight.data.abs_()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    for _ in range(2):
        assert relative(compiled(X), model(X)) < BOUND
        model[2].weight.data[1:3].neg_()


def test_float16_is_left_alone() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).half().eval()
    capture = Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    x = X.half()
    assert torch.equal(compiled(x), model(x)) or relative(compiled(x), model(x)) < 2e-3
    (verdict,) = capture.reports[0].verdicts
    assert verdict.outcome is not bnfx.Outcome.FOLDED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_dtype_is_the_models(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    out = compiled(X.to(dtype))
    assert out.dtype == dtype
    assert relative(out, model(X.to(dtype))) < (1e-5 if dtype == torch.float32 else 4e-2)


def test_autocast() -> None:
    model = net().float()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = compiled(X.float()), model(X.float())
    assert out.dtype == expected.dtype
    assert relative(out, expected) < 4e-2
    out.float().sum().backward()
    assert model.conv.weight.grad.dtype == torch.float32


def test_on_request_without_gradients() -> None:
    model, capture = net(), Capture()
    options = {**capture.options, "weights": "traced"}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with torch.no_grad():
        for _ in range(2):
            assert relative(compiled(X), model(X)) < BOUND
            model.conv.weight.data[1, 0, 0, 0] += 3  # leaves no trace, and needs none
    assert capture.reports[0].weights == (("traced", "as asked"),)


def test_less_is_saved_for_the_backward() -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3))
    ).eval()
    x = torch.randn(4, 3, 20, 20)

    def saved(call: Any) -> int:
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call(x).sum().backward()
        own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers(), x)}
        return sum(size for address, size in held.items() if address not in own)

    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    compiled(x)
    activation = 4 * 16 * 18 * 18 * 4
    assert saved(model) >= 2 * activation
    assert saved(compiled) < 1.2 * activation
