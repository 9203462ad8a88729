"""State of the process that a model's code changes for good: a graph is none of it, and afterwards
all is as it was.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.folding.global_state import state_kept
from bnfx.folding.verify import answer_to

WAYS: dict[str, Callable[[], object]] = {
    "gradients": lambda: torch.set_grad_enabled(False),
    "gradients, by a switch that stays": lambda: torch.no_grad().__enter__(),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast's dtype": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "determinism": lambda: torch.use_deterministic_algorithms(True),
    "determinism, warned of": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "precision, the newer way": lambda: setattr(
        torch.backends.mkldnn.conv, "fp32_precision", "bf16"
    ),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "oneDNN": lambda: torch.backends.mkldnn.set_flags(False),
    "a seed of Python's": lambda: random.seed(3),
    "a seed of NumPy's": lambda: np.random.seed(3),
    "a seed of torch's": lambda: torch.manual_seed(3),
}
X = torch.randn(2, 3, 6, 6)


class Switching(nn.Module):
    """Its way is a global, so that it is no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Any) -> Any:
        WAY[0]()
        return self.bn(self.conv(x))


WAY: list[Callable[[], object]] = []


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def switching(request: pytest.FixtureRequest) -> nn.Module:
    WAY[:] = [request.param]
    return randomise(Switching()).eval()


def _state() -> tuple[Any, ...]:
    numpys = np.random.get_state()[1]
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_deterministic_debug_mode(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.mkldnn.enabled,
        random.getstate(),
        np.asarray(numpys).tobytes(),
        torch.get_rng_state().numpy().tobytes(),
    )


@pytest.mark.parametrize("inputs", [(), (X,)], ids=["without", "with"])
@pytest.mark.parametrize("keep", ["graph", "module", "explained"])
def test_all_is_as_it_was(switching: nn.Module, keep: str, inputs: tuple[Any, ...]) -> None:
    before = _state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if keep == "explained":
                bnfx.explain(switching, *inputs)
            else:
                bnfx.fold(switching, *inputs, keep=keep)
        except bnfx.CaptureError:
            pass
    assert _state() == before


def test_no_graph_of_it(switching: nn.Module) -> None:
    """The model changes what comes after it, and its graph would not."""
    with state_kept(), torch.no_grad(), torch.random.fork_rng():
        before = _state()
        switching(X)
        switches = _state() != before
    before = _state()
    for inputs in ((), (X,)):
        try:
            graph = bnfx.fold(switching, *inputs, keep="graph")
        except bnfx.CaptureError:
            continue
        # Under no_grad, as graphs are captured, there is nothing to switch.
        assert inputs
        assert not switches
        with torch.no_grad():
            graph(X)
        assert _state() == before


def test_it_is_named() -> None:
    WAY[:] = [WAYS["dtype"]]
    said = "Switching changes the default dtype for all that is computed after it"
    for inputs in ((), (X,)):
        with pytest.raises(bnfx.CaptureError, match=said):
            bnfx.fold(Switching().eval(), *inputs, keep="graph")


def test_the_class_goes_on_doing_it() -> None:
    WAY[:] = [WAYS["a seed of NumPy's"]]
    with state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded = bnfx.fold(randomise(Switching()).eval(), X, keep="module")
        folded(X)
        first = np.random.rand()
        np.random.seed(3)
        assert np.random.rand() == first


class Last(nn.Module):
    def forward(self, x: Any) -> Any:
        made = x + torch.ones(1)
        torch.set_default_dtype(torch.float64)
        return made


def test_each_run_begins_the_same() -> None:
    assert answer_to(Last(), (X,), {}).dtype == torch.float32
    assert answer_to(Last(), (X,), {}).dtype == torch.float32


@pytest.mark.parametrize("mine", ["cpu", "meta"])
def test_a_default_device(mine: str) -> None:
    """That of a user comes back; none stays none, which costs calls of factories nothing."""
    WAY[:] = [lambda: torch.set_default_device("meta" if mine == "cpu" else "cpu")]
    if mine == "meta":
        torch.set_default_device(mine)
    modes = torch._C._len_torch_function_stack()  # type: ignore[attr-defined]
    try:
        with pytest.raises(bnfx.CaptureError, match="changes the default device"):
            bnfx.fold(Switching().to_empty(device="cpu").eval(), keep="graph")
        assert torch.get_default_device().type == mine
        assert torch._C._len_torch_function_stack() == modes  # type: ignore[attr-defined]
    finally:
        torch.set_default_device(None)


NEWER: dict[str, tuple[Any, str]] = {
    "products": (torch.backends.cuda.matmul, "tf32"),
    "convolutions": (torch.backends.cudnn.conv, "ieee"),  # type: ignore[attr-defined]
    "oneDNN's": (torch.backends.mkldnn.matmul, "bf16"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize(("backend", "mine"), NEWER.values(), ids=NEWER.keys())
def test_precision_that_the_older_flags_do_not_tell(backend: Any, mine: str) -> None:
    """Who sets it the newer way makes ``torch.get_float32_matmul_precision`` raise, or
    ``torch.backends.cudnn.allow_tf32``.
    """
    with state_kept():
        backend.fp32_precision = mine
        others = [each.fp32_precision for each, _ in NEWER.values()]
        with state_kept() as changed:
            for each, _ in NEWER.values():
                each.fp32_precision = "tf32" if each.fp32_precision != "tf32" else "ieee"
        assert changed == ["changes the precision of float32"]
        assert [each.fp32_precision for each, _ in NEWER.values()] == others
        with state_kept() as changed:
            bnfx.fold(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), X)
        assert changed == []


def test_each_run_draws_the_same() -> None:
    drawing = nn.Dropout().train()
    assert torch.equal(answer_to(drawing, (X,), {}), answer_to(drawing, (X,), {}))
