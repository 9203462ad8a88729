"""Engines at the edges: NaN that arises inside, threads, the caller's defaults and memory."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from support import TORCH, fail_on_warnings, randomise
from torch import nn
from torch._subclasses import FakeTensor

from bnfx.errors import InnerWarning

BUILDERS = {
    "openvino": "bnfx.inner.openvino.session.OpenVino.build",
    "onnxruntime": "bnfx.inner.onnxruntime.onnx_session.OnnxRuntime.build",
}


@pytest.fixture(params=BUILDERS, autouse=True)
def inner(request: pytest.FixtureRequest) -> Iterator[str]:
    pytest.importorskip(request.param)
    torch._dynamo.reset()
    with torch.no_grad():
        yield request.param


class Net(nn.Module):
    def __init__(self, last: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x))


def _compiled(model: nn.Module, inner: str, **more: Any) -> Any:
    return torch.compile(model, backend="bnfx", options={"inner": inner}, **more)


INSIDE = {
    "relu-of-sqrt": lambda y: torch.relu(torch.sqrt(y)),
    "clamp-of-sqrt": lambda y: torch.clamp(torch.sqrt(y), 0, 1),
    "hardtanh-of-sqrt": lambda y: nn.functional.hardtanh(torch.sqrt(y)),
    "maximum-of-sqrt": lambda y: torch.sqrt(y).amax(dim=(2, 3)),
    "pool-of-sqrt": lambda y: nn.functional.max_pool2d(torch.sqrt(y), 2),
    "behind-a-view": lambda y: torch.relu(torch.sqrt(y).flatten(1).unsqueeze(0)),
    "behind-a-sum": lambda y: torch.relu(torch.sqrt(y).sum(dim=1) + 1),
    "relu-of-quotient": lambda y: torch.relu(torch.relu(y) / torch.relu(y)),
    "relu-of-infinities": lambda y: torch.relu(torch.exp(y * -1e3) - torch.exp(y * -1e3)),
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("name", INSIDE)
def test_a_nan_that_arises_inside_stays(inner: str, name: str) -> None:
    model = Net(INSIDE[name]).eval()
    conv = model.layers[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.weight.fill_(0.25)
    conv.bias.zero_()
    compiled = _compiled(model, inner)
    usual = torch.full((1, 4, 4, 4), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)  # of an engine that would lose it
        compiled(usual), compiled(usual)
        theirs = model(-usual)
        assert theirs.isnan().any()
        assert torch.equal(compiled(-usual).isnan(), theirs.isnan())


@pytest.mark.skipif(
    TORCH < (2, 12), reason="torch 2.11 fails calls of other threads while one traces a graph"
)
def test_threads_with_new_sizes_and_with_nan(inner: str) -> None:
    """While one traces, the other's answers come from the same weights."""
    layers = [m for _ in range(6) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))]
    model = randomise(nn.Sequential(*layers), 0).eval()
    compiled = _compiled(model, inner, dynamic=True)
    start = torch.randn(2, 4, 8, 9)
    compiled(start), compiled(start)
    bad, wrong, done = start.clone(), list[object](), threading.Event()
    bad[0, 0, 0, 0] = float("nan")
    expected = model(bad)

    def call() -> None:
        with torch.no_grad():
            while not done.is_set():
                try:
                    answer = compiled(bad)
                    if isinstance(answer, FakeTensor) or not torch.equal(
                        answer.isnan(), expected.isnan()
                    ):
                        wrong.append(answer)
                except BaseException as error:
                    wrong.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for size in range(10, 14):
            x = torch.randn(3, 4, size, size + 1)
            compiled(x)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    finally:
        done.set()
        thread.join()
    assert not wrong, wrong[:3]


@pytest.mark.filterwarnings("error::bnfx.errors.InnerWarning")
def test_the_callers_defaults_change_nothing(inner: str) -> None:
    model = randomise(Net(), 0).eval()
    x = torch.randn(1, 4, 5, 6)
    compiled = _compiled(model, inner)
    expected = model(x)
    torch.set_default_dtype(torch.float64)
    try:
        compiled(x), compiled(x)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        for _ in range(3):
            torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_tensors_of_a_call_can_be_resized_after_it(inner: str) -> None:
    model = randomise(Net(), 0).eval()
    compiled = _compiled(model, inner)
    x = torch.randn(1, 4, 5, 6)
    compiled(x), compiled(x)
    answer = compiled(x)
    assert x.resize_(2, 4, 7, 7).shape == answer.resize_(2, 4, 7, 7).shape


@pytest.mark.one_in(4)
@pytest.mark.parametrize("error", [RuntimeError("no room\nfor a session"), AssertionError()])
@pytest.mark.parametrize("by_trial", [False, True])
def test_an_engine_that_fails_to_build_is_one_that_refuses(
    inner: str, by_trial: bool, error: Exception
) -> None:
    model = randomise(Net(), 0).eval()
    x = torch.randn(1, 4, 5, 6)
    reports: list[Any] = []
    options = {"inner": "auto" if by_trial else inner, "report": reports.append}
    with mock.patch(BUILDERS[inner], side_effect=error), warnings.catch_warnings():
        fail_on_warnings()
        if not by_trial:
            warnings.filterwarnings("ignore", f".*{str(error)[:7]}", InnerWarning)
        compiled = torch.compile(model, backend="bnfx", options=options)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert [report.count("folded") for report in reports] == [1]
