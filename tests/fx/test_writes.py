"""Every way to write to a folded parameter from inside the graph: refused, never folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import Capture, randomise, relative
from torch import nn

import bnfx
from bnfx import Code


@torch.library.custom_op("bnfx_test::shift", mutates_args={"statistic"})
def shift(statistic: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    statistic.add_(1)
    return x * 2


@shift.register_fake
def _(statistic: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    def __init__(self, write: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.bn, self.write = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), write

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        self.write(self.bn, x, *others)
        return self.bn(self.conv(x))


WRITES: dict[str, Callable[..., Any]] = {
    "foreach": lambda bn, x: torch._foreach_add_([bn.running_mean], [1.0]),
    "packet": lambda bn, x: torch.ops.bnfx_test.shift(bn.running_mean, x),
    "overload": lambda bn, x: torch.ops.bnfx_test.shift.default(bn.running_mean, x),
    "custom-op": lambda bn, x: shift(bn.running_mean, x),
    "out-tuple": lambda bn, x: torch.max(
        x[0, 0], 1, out=(bn.running_mean, torch.empty(8, dtype=torch.int64))
    ),
    "instance-norm": lambda bn, x: F.instance_norm(
        x.repeat(1, 3, 1, 1)[:, :8], bn.running_mean, bn.running_var, use_input_stats=True
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_write_is_refused(write: str) -> None:
    models = [randomise(Net(WRITES[write])).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x, capture = torch.randn(2, 3, 8, 8), Capture()
    compiled = torch.compile(models[0], backend="bnfx", options=capture.options)
    with torch.no_grad():
        for _ in range(2):
            assert relative(compiled(x), models[1](x)) < 1e-5
    assert any(report.graphs[0].gives(Code.MUTATED_IN_GRAPH) for report in capture.reports)


def test_a_renormalised_table_that_is_a_weight_too() -> None:
    class Tied(nn.Module):
        def __init__(self, max_norm: float | None) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 4, max_norm=max_norm)
            self.linear, self.bn = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)
            self.linear.weight = self.table.weight

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            return self.bn(self.linear(self.table(index)))

    index = torch.tensor([0, 1, 2])
    for max_norm, outcome in ((0.5, "lowered"), (None, "folded")):
        models = [randomise(Tied(max_norm)).eval() for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        report = bnfx.explain(models[0], index)
        assert report.count(outcome) == 1
        assert report.graphs[0].gives(Code.MUTATED_IN_GRAPH) == (max_norm is not None)
        with torch.no_grad():
            assert (
                relative(bnfx.fold(models[0], index, keep="graph")(index), models[1](index)) < 1e-5
            )


def test_an_argument_that_is_a_view_of_a_statistic() -> None:
    models = [randomise(Net(lambda bn, x, view: view.add_(1))).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(models[0], backend="bnfx", options={"inner": "aot_eager"})
    with torch.no_grad():
        # First an unrelated argument, which lets the graph fold; then, in the same graph, the view.
        for pick in (lambda model: torch.zeros(8), lambda model: model.bn.running_mean.view(2, 4)):
            for _ in range(2):
                answers = [
                    run(x, pick(model))
                    for run, model in zip((compiled, models[1]), models, strict=True)
                ]
                assert relative(*answers) < 1e-5


def test_a_training_module_that_shares_statistics() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.eval_bn, self.train_bn = (
                nn.Conv2d(3, 8, 3),
                nn.BatchNorm2d(8),
                nn.BatchNorm2d(8),
            )
            self.train_bn.running_mean = self.eval_bn.running_mean

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.train_bn(self.conv(x)).mean() + self.eval_bn(self.conv(x))

    model = randomise(Shared()).eval()
    model.train_bn.train()
    report = bnfx.explain(model)
    assert report.graphs[0].gives(Code.MUTATED_IN_GRAPH)
    assert report.graphs[0].gives(Code.TRAINING_MODE)


def test_changing_the_dtype_reads_the_data() -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.bn(y) + y.type(torch.float64)

    model, x = randomise(Typed()).eval(), torch.randn(2, 3, 8, 8)
    assert bnfx.explain(model, x).count("lowered") == 1
    with torch.no_grad():
        assert relative(bnfx.fold(model, x)(x), model(x)) < 1e-6


def _late(m: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = m.bn(b)
    a.add_(1)
    return m.conv(z)


class Two(nn.Module):
    """Writes to one input between the BatchNorm of another and its reader."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return _late(self, a, b)


@pytest.mark.parametrize("way", ["compile", "fold"])
def test_inputs_may_share_memory(way: str) -> None:
    model = randomise(Two()).eval().double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        y = x.clone()
        expected = model(y, y.view(y.shape))
        y = x.clone()
        if way == "fold":
            actual = bnfx.fold(model, y, y.clone())(y, y.view(y.shape))
        else:
            options = {"inner": lambda module, inputs: module.forward}
            actual = torch.compile(model, backend="bnfx", options=options)(y, y.view(y.shape))
    assert relative(actual, expected) < 1e-12


class Cache(nn.Module):
    """Two buffers share memory; one is written to, the other is data."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.randn(2, 4, 3, 3))
        self.register_buffer("head", self.cache.view(2, 4, 3, 3))
        self.bn, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.bn(self.head)
        self.cache.add_(x)
        return self.conv(z)


def test_buffers_may_share_memory() -> None:
    models = [randomise(Cache()).eval() for _ in range(2)]
    models[1].cache.copy_(models[0].cache)
    models[1].conv.load_state_dict(models[0].conv.state_dict())
    x = torch.randn(2, 4, 3, 3)
    options = {"inner": lambda module, inputs: module.forward}
    with torch.no_grad():
        expected = models[1](x)
        actual = torch.compile(models[0], backend="bnfx", options=options)(x)
    assert relative(actual, expected) < 1e-5
