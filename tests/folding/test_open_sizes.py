"""``explain``, ``fold`` and the backend say the same of the same model and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import randomise, relative
from torch import nn

import bnfx
from bnfx.folding.given import ExampleInputs
from bnfx.folding.graph_form import fold_graph
from bnfx.passes.report import GraphReport, Outcome
from bnfx.passes.rules.ordered import RULES


class Net(nn.Module):
    """``forward`` is a function of ``self`` and ``x``."""

    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def _after(run: Callable[[Any, torch.Tensor], torch.Tensor], **conv: Any) -> Net:
    """A BatchNorm behind a convolution."""
    return Net(run, c=nn.Conv2d(3, 4, 3, **conv), b=nn.BatchNorm2d(4))


def _before(run: Callable[[Any, torch.Tensor], torch.Tensor], **conv: Any) -> Net:
    """A BatchNorm in front of a convolution."""
    return Net(run, b=nn.BatchNorm2d(3), c=nn.Conv2d(3, 4, 3, **conv))


IMAGE = (2, 3, 9, 10)
# The model, its input, and whether its BatchNorm folds with these sizes, and with any.
CASES: dict[str, tuple[nn.Module, tuple[int, ...], bool, bool]] = {
    "scaled": (_before(lambda m, x: m.c(m.b(x / 255)), padding=1), IMAGE, True, False),
    "padded": (_before(lambda m, x: m.c(m.b(x)), padding=1), IMAGE, True, False),
    "one-image": (_before(lambda m, x: m.c(m.b(x)), padding=1), (1, 3, 9, 10), True, False),
    "one-row": (_before(lambda m, x: m.c(m.b(x)), padding=1), (2, 3, 1, 10), True, False),
    "strided": (_before(lambda m, x: m.c(m.b(x)), padding=1, stride=2), IMAGE, True, False),
    "pooled": (_before(lambda m, x: m.c(F.avg_pool2d(m.b(x), 2)), padding=1), IMAGE, True, False),
    "max-pooled": (
        _before(lambda m, x: m.c(F.max_pool2d(m.b(x), 2)), padding=1),
        IMAGE,
        True,
        False,
    ),
    "pad": (_before(lambda m, x: m.c(F.pad(m.b(x), (0, 1, 0, 1)))), IMAGE, True, False),
    "same-pad": (
        _before(lambda m, x: m.c(F.pad(m.b(x), (0, -x.shape[3] % 4, 0, 0))), stride=4),
        IMAGE,
        True,
        False,
    ),
    "half": (_after(lambda m, x: m.b(m.c(x)[:, :, : x.shape[2] // 2])), IMAGE, True, False),
    "by-width": (_after(lambda m, x: m.b(m.c(x) / x.shape[3])), IMAGE, True, False),
    "plain": (_after(lambda m, x: m.b(m.c(x)), padding=1), IMAGE, True, True),
    "behind-pool": (_after(lambda m, x: m.b(F.avg_pool2d(m.c(x), 2))), IMAGE, True, True),
    "behind-resize": (
        _after(lambda m, x: m.b(F.interpolate(m.c(x), size=x.shape[2:], mode="bilinear"))),
        IMAGE,
        True,
        True,
    ),
    "behind-adaptive": (
        _after(lambda m, x: m.b(F.adaptive_avg_pool2d(m.c(x), 2))),
        IMAGE,
        True,
        True,
    ),
    "unpadded": (_before(lambda m, x: m.c(m.b(x))), IMAGE, True, True),
    "activation": (_after(lambda m, x: m.b(F.gelu(m.c(x)))), IMAGE, False, False),
}


def _said(report: GraphReport | bnfx.Report) -> list[tuple[str, Outcome]]:
    norms = [v for v in report.verdicts if v.site.kind == "batch_norm"]
    return [(v.site.name, v.outcome) for v in norms]


def _by_fold(model: nn.Module, x: torch.Tensor, fixed: bool) -> list[tuple[str, Outcome]]:
    return _said(fold_graph(model, ExampleInputs((x,), fixed=fixed), RULES)[1])


def _by_backend(model: nn.Module, x: torch.Tensor, dynamic: bool) -> list[tuple[str, Outcome]]:
    reports: list[bnfx.Report] = []
    torch._dynamo.reset()
    options = {"inner": "eager", "report": reports.append}
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options=options, dynamic=dynamic)(x)
    return _said(reports[-1])


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", CASES)
def test_one_answer(name: str) -> None:
    model, shape, fixed, free = CASES[name]
    model = randomise(model).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    report = bnfx.explain(model, x)
    assert _said(report) == _by_backend(model, x, False) == _by_fold(model, x, True)
    assert [outcome is Outcome.FOLDED for _, outcome in _said(report)] == [fixed]
    open_sizes = _by_fold(model, x, False)
    assert open_sizes == _by_backend(model, x, True)
    assert [outcome is Outcome.FOLDED for _, outcome in open_sizes] == [free]
    notes = " ".join(note for graph in report.graphs for note in graph.notes)
    assert ("these sizes only" in notes) == (fixed != free), notes
    assert ("b (" in notes) == (fixed != free), notes


def test_a_module_that_runs_twice_is_no_reason_for_a_note() -> None:
    model = _after(lambda m, x: m.b(F.gelu(m.b(m.c(x[:, :, 1:])))))
    report = bnfx.explain(randomise(model).double().eval(), torch.randn(IMAGE, dtype=torch.float64))
    assert [outcome is Outcome.FOLDED for _, outcome in _said(report)] == [True, False]
    assert report.notes == ()


def test_fixed_sizes_are_exact_and_asserted() -> None:
    model = randomise(CASES["scaled"][0]).double().eval()
    x = torch.randn(IMAGE, dtype=torch.float64)
    folded = bnfx.fold(model, x, keep="graph", sizes="example")
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
        for other in (x[:1], x[:, :, :8], x[..., :8]):
            with pytest.raises(AssertionError, match="of size"):
                folded(other)
        open_sizes = bnfx.fold(model, x, keep="graph")
        torch.testing.assert_close(
            open_sizes(x[:1, :, :8]), model(x[:1, :, :8]), rtol=1e-10, atol=1e-10
        )


def test_a_traced_graph_can_have_fixed_sizes() -> None:
    model = randomise(CASES["padded"][0]).double().eval()
    x = torch.randn(IMAGE, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(nn.Sequential(model.b, model.c).eval())
    folded = bnfx.fold(traced, x, sizes="example")
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
        with pytest.raises(AssertionError, match="of size"):
            folded(x[..., :8])


@pytest.mark.parametrize("sizes", ["fixed", None])
def test_other_values_are_refused(sizes: Any) -> None:
    with pytest.raises(bnfx.OptionError, match="sizes="):
        bnfx.fold(CASES["plain"][0].eval(), torch.randn(IMAGE), sizes=sizes)


def test_fixed_sizes_need_an_example_of_a_module() -> None:
    model = CASES["plain"][0].float().eval()
    program = torch.export.export(model, (torch.randn(IMAGE),))
    for given in ((model,), (program, torch.randn(IMAGE))):
        with pytest.raises(bnfx.OptionError, match="example inputs"):
            bnfx.fold(*given, sizes="example")


@pytest.mark.slow
def test_sizes_that_grow_without_end_are_those_of_the_example() -> None:
    """As in timm's tf_efficientnet: torch compares such sizes for hours."""

    class Same(nn.Module):
        """Padding as TensorFlow's "same": each size is written three times into the next."""

        def __init__(self, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, 2 - i % 2) for i in range(depth))
            self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(depth))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv, norm in zip(self.layers, self.norms, strict=True):
                pads: list[int] = []
                for size, step in zip(x.shape[:1:-1], conv.stride, strict=True):
                    pad = max((math.ceil(size / step) - 1) * step + 3 - size, 0)
                    pads += [pad // 2, pad - pad // 2]
                x = norm(conv(F.pad(x, pads)))
            return x

    x, other = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 3, 20, 16).double()
    for depth, is_open in ((1, True), (5, False)):
        model = randomise(Same(depth)).eval().double()
        folded = bnfx.fold(model, x, keep="graph")
        with torch.no_grad():
            assert relative(folded(x), model(x)) < 1e-12
            if is_open:
                assert relative(folded(other), model(other)) < 1e-12
                continue
            with pytest.raises(AssertionError, match="x of size 16 on axis 2"):
                folded(other)
