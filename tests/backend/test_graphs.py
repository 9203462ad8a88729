"""The backend on every kind of graph that Dynamo hands over, with the real Inductor."""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import Capture, randomise, relative
from torch import nn

import bnfx
from bnfx.passes.rules import lower_batch_norm
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule


class Net(nn.Module):
    """Every operator, a reflect padding, in-place ops, and sizes that invite mistakes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 3, groups=2, stride=2, output_padding=1)
        self.up_norm = nn.BatchNorm2d(8)
        self.reflect = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.sync = nn.SyncBatchNorm(8)
        self.linear, self.linear_norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = self.up_norm(self.up(x))
        x += 1
        x = self.sync(self.reflect(x))
        return self.linear_norm(self.linear(x.mean((2, 3))))


def net() -> nn.Module:
    return randomise(Net()).eval()


@pytest.mark.one_in(99)
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_inductor(dynamic: bool | None, fullgraph: bool) -> None:
    model = net()
    reports: list[bnfx.Report] = []
    compiled = torch.compile(
        model,
        backend="bnfx",
        dynamic=dynamic,
        fullgraph=fullgraph,
        options={"report": reports.append},
    )
    with torch.no_grad():
        for size in (9, 9, 11, 14):
            x = torch.randn(size % 5 + 1, 3, size, size)
            assert relative(compiled(x), model(x)) < 1e-5
        model.norm.eps = 0.1
        assert relative(compiled(x), model(x)) < 1e-5
        model.norm.bias.add_(1)
        for size in (9, 13):
            x = torch.randn(2, 3, size, size)
            assert relative(compiled(x), model(x)) < 1e-5
    for report in reports:
        assert report.count("folded") == 4
        assert report.count("folded", "affine") == 1  # x += 1
        assert len(report.verdicts) == 5


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-12)]
)
def test_dtypes(dtype: torch.dtype, bound: float) -> None:
    model, x = net().to(dtype), torch.randn(2, 3, 9, 9, dtype=dtype)
    compiled = torch.compile(model, backend="bnfx")
    with torch.no_grad():
        out = compiled(x)
        assert out.dtype == dtype
        assert relative(out, model(x)) < bound


@pytest.mark.slow
def test_autocast_and_channels_last() -> None:
    model = net().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend="bnfx")
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-5
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, actual = model(x), compiled(x)
            assert actual.dtype == expected.dtype
            assert relative(actual, expected) < 2e-2
            model.norm.bias.add_(1)
            assert relative(compiled(x), model(x)) < 2e-2


def test_inference_mode() -> None:
    model, x = net(), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend="bnfx")
    with torch.inference_mode():
        assert relative(compiled(x), model(x)) < 1e-5
    with torch.no_grad():
        model.norm.bias.add_(1)
    with torch.inference_mode():
        assert relative(compiled(x), model(x)) < 1e-5


def test_half_lowering_rounds_once() -> None:
    """A BatchNorm on bfloat16 computes in float32; so does its multiply-add."""
    model = randomise(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(64))).eval().bfloat16()
    model[1].running_mean.add_(30.0)
    x = (torch.randn(4, 64, 8, 8) + 30).bfloat16()
    with torch.no_grad():
        exact = model.double()(x.double())
        model.bfloat16()
        lowered = bnfx.fold(model, x)(x)
        assert relative(lowered, exact) <= 1.1 * relative(model(x), exact)


def test_graph_breaks_give_a_report_each() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(
                nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)) for _ in range(3)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.parts[0](x)
            torch._dynamo.graph_break()
            x = self.parts[1](x)
            torch._dynamo.graph_break()
            return self.parts[2](x)

    model, capture = randomise(Broken()).eval().double(), Capture()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options=capture.options)
        assert relative(compiled(x), model(x)) < 1e-12
    assert [report.count("folded") for report in capture.reports] == [1, 1, 1]
    names = [verdict.site.name for report in capture.reports for verdict in report.verdicts]
    assert names == ["parts.0.1", "parts.1.1", "parts.2.1"]
    assert bnfx.explain(model, x).count("folded") == 3


@pytest.mark.parametrize("weights", ["auto", "live"])
def test_gradients_pass_through_untouched(weights: str) -> None:
    """In training, and where weights are to be computed ahead, the graph is left alone."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).double()
    model.train(weights == "auto")
    twin = copy.deepcopy(model)
    capture = Capture()
    options = {"inner": "aot_eager", "report": capture.reports.append, "weights": weights}
    compiled = torch.compile(model, backend="bnfx", options=options)
    x = torch.randn(4, 3, 6, 7, dtype=torch.float64)
    compiled(x).square().sum().backward()
    twin(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert relative(ours.grad, theirs.grad) < 1e-12
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    (report,) = capture.reports
    codes = [refusal.code for refusal in report.verdicts[0].refusals]
    assert codes[0] is bnfx.Code.GRADIENTS_NEEDED
    assert (bnfx.Code.TRAINING_MODE in codes) == model.training


def test_no_gradient_wanted_is_enough() -> None:
    """Frozen parameters and an input without gradient: nothing can flow, whatever the mode."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    model.requires_grad_(False)
    capture = Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    x = torch.randn(2, 3, 6, 7)
    assert relative(compiled(x), model(x)) < 1e-6
    assert capture.reports[0].count("folded") == 1
    x.requires_grad_()
    compiled(x).sum().backward()
    assert x.grad is not None


def test_gradients_switched_on_inside() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return model(x)

    capture = Capture()
    with torch.no_grad():
        out = torch.compile(forward, backend="bnfx", options=capture.options)(
            torch.randn(2, 3, 6, 7)
        )
    assert out.requires_grad
    assert capture.reports[0].count("kept") == 1


def test_training_mode_without_gradients_updates_statistics() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).train()
    before = model[1].running_mean.clone()
    capture = Capture()
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options=capture.options)(torch.randn(4, 3, 6, 7))
    assert not torch.equal(model[1].running_mean, before)
    assert [r.code for r in capture.reports[0].verdicts[0].refusals] == [bnfx.Code.TRAINING_MODE]


def test_some_layers_frozen_some_training() -> None:
    """Frozen statistics in a training model, as detection fine-tuning has them."""
    layers = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5)]
    model = randomise(nn.Sequential(*layers)).double().train()
    model[1].eval()
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    compiled = torch.compile(model, backend="bnfx")
    with torch.no_grad():
        for _ in range(3):
            assert relative(compiled(x), twin(x)) < 1e-12
    torch.testing.assert_close(model[3].running_var, twin[3].running_var, rtol=1e-12, atol=0)


def _raise(*args: Any) -> Any:
    raise RuntimeError("a bug in a rule")


def test_a_rule_that_raises_never_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Rule("broken-rule", lower_batch_norm.match, lower_batch_norm.refuse, _raise)
    monkeypatch.setattr("bnfx.options.RULES", (*RULES[:-1], broken))
    model = randomise(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))).eval()
    x, capture = torch.randn(2, 3, 6, 7), Capture()
    with torch.no_grad(), pytest.warns(bnfx.RewriteWarning, match="rule broken-rule failed"):
        out = torch.compile(model, backend="bnfx", options=capture.options)(x)
    assert torch.equal(out, model(x))
    (verdict,) = capture.reports[0].verdicts
    assert verdict.refusals[0].code is bnfx.Code.INTERNAL_ERROR
    with pytest.warns(bnfx.RewriteWarning):
        assert torch.equal(bnfx.fold(model, x)(x), model(x))


def test_an_inner_compiler_that_fails_on_the_folded_graph_gets_the_original() -> None:
    seen: list[int] = []

    def picky(module: torch.fx.GraphModule, example_inputs: Any) -> Any:
        seen.append(len(example_inputs))
        if len(seen) == 1:
            raise RuntimeError("cannot compile this")
        return module.forward

    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    x = torch.randn(2, 3, 6, 7)
    with torch.no_grad(), pytest.warns(bnfx.RewriteWarning, match="cannot compile this"):
        out = torch.compile(model, backend="bnfx", options={"inner": picky})(x)
    assert torch.equal(out, model(x))
    assert seen == [9, 7]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("build", ["transposed", "width"])
def test_inductors_own_freezing_mistakes_stay_out(build: str) -> None:
    """Inductor's freezing takes these constants for channels by their size (errors above 3)."""
    with_bn = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))

    class Trap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = with_bn
            self.scale = nn.Parameter(torch.rand(1, 6) + 0.5)
            self.factors = nn.Parameter(torch.rand(1, 6, 1, 1) + 0.5)
            self.conv = nn.Conv2d(6, 6, 3, padding=1)
            self.up = nn.ConvTranspose2d(6, 6, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            if build == "width":
                return self.conv(x) * self.scale
            return self.up(x) * self.factors

    model = randomise(Trap()).eval()
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        assert relative(torch.compile(model, backend="bnfx")(x), model(x)) < 1e-5


def test_nothing_to_fold_is_handed_on_as_it_came() -> None:
    capture = Capture()
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).eval()
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options=capture.options)(torch.randn(2, 3, 6, 7))
    assert capture.reports[0].verdicts == ()
    assert str(capture.reports[0]) == "no BatchNorm in the graph"


def test_no_warning_of_ours_in_normal_use() -> None:
    with warnings.catch_warnings(), contextlib.suppress(bnfx.CaptureError):
        warnings.simplefilter("error", bnfx.RewriteWarning)
        with torch.no_grad():
            torch.compile(net(), backend="bnfx")(torch.randn(2, 3, 9, 9))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_inputs_that_are_written_to_and_alias(inner: str) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x.mul_(2)
            return self.norm(self.conv(x)) + y.sum()

    model = randomise(Writing()).eval()
    compiled = torch.compile(model, backend="bnfx", options={"inner": inner})
    with torch.no_grad():
        for _ in range(2):
            x, y = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
            for pick in (lambda x, y: y, lambda x, y: x, lambda x, y: x[:1]):
                ours, theirs = x.clone(), x.clone()
                expected = model(theirs, pick(theirs, y))
                assert relative(compiled(ours, pick(ours, y)), expected) < 1e-5
                assert torch.equal(ours, theirs)


def test_branches_are_not_merged_into_autocast() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.a(x), self.b(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return a + b

    model, x, capture = Branches().eval(), torch.randn(2, 4, 6, 6), Capture()
    with torch.no_grad():
        actual = torch.compile(model, backend="bnfx", options=capture.options)(x)
        assert actual.dtype == torch.float32
        assert relative(actual, model(x)) < 1e-6
    assert capture.reports[0].rewrites == {}


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_a_slice_keeps_the_layout_that_batch_norm_gave_it(inner: str) -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)[:, :2]).permute(0, 2, 3, 1).view(-1, 2)

    model = randomise(Sliced()).eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 6, 6).to(memory_format=layout)
        torch._dynamo.reset()
        with torch.no_grad():
            try:
                expected = model(x)
            except RuntimeError:
                continue  # the model itself needs channels-last
            actual = torch.compile(model, backend="bnfx", options={"inner": inner})(x)
        assert relative(actual, expected) < 1e-5


def test_a_sum_keeps_the_layout_of_its_branch() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + self.conv(x)).transpose(2, 3).view(2, -1)

    model, x = Residual().eval(), torch.randn(2, 4, 6, 6).transpose(2, 3)
    with torch.no_grad():
        actual = torch.compile(model, backend="bnfx", options=Capture().options)(x)
        assert relative(actual, model(x)) < 1e-6
