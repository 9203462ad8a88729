"""Random sequences of writes, moves and flips: after each, the answer is the eager model's.

Sequences of 7 steps: 20 in each mode with the inner compiler ``eager``, and 4 in each with
Inductor, where packed and frozen bodies are real; others with ``BNFX_FUZZ`` in the environment. The
fast suite runs the first few. Every sequence has two instances that share one graph.
"""

from __future__ import annotations

import copy
import pkgutil
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
import torch.nn.functional as F
from direct_models import count_direct
from rebuilds import join_builds
from seeds import FIRST, FUZZ
from torch import nn
from writes import CHEAP, DEAR, Broadcast, Net, Step, mend, unfit

import bnfx
from bnfx.direct import direct_calls
from bnfx.inner.auto import choices, trial
from bnfx.weights import freezing

STEPS = 7
SEEDS = [
    range(2),
    pytest.param(range(2, 5), marks=pytest.mark.slow),
    pytest.param(range(5, 20), marks=pytest.mark.heavy),
]
INDUCTOR_SEEDS = [
    range(1000, 1001),
    pytest.param(range(1001, 1004), marks=pytest.mark.heavy),
]
if FUZZ:
    SEEDS, INDUCTOR_SEEDS = [range(FIRST, FIRST + FUZZ // 10)], [range(FIRST, FIRST + 1)]


@pytest.fixture(scope="module")
def broadcast() -> Broadcast:
    return Broadcast()


@pytest.fixture(autouse=True)
def _many_graphs() -> Iterator[None]:
    """Each dtype, mode and grad mode is a graph of its own."""
    with torch._dynamo.config.patch(recompile_limit=200, accumulated_recompile_limit=2000):
        yield


def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def margin(model: Net, x: torch.Tensor) -> float:
    """How far the nearest ReLU, or choice of a maximum, is from being switched, relatively."""
    model = copy.deepcopy(model)  # in training, statistics are written
    with torch.no_grad():
        before = model.norm(model.conv(model.pre(x)))
        pooled = model.second(F.relu(before))
    two = pooled.unfold(2, 2, 1).unfold(3, 2, 1).flatten(4).topk(2).values
    nearest = before.abs().min() / before.abs().max()
    return float(min(nearest, (two[..., 0] - two[..., 1]).min() / pooled.abs().max()))


def check_gradients(model: Net, twin: Net, bound: float, where: str) -> None:
    ours, theirs = ([p.grad for p in owner.parameters()] for owner in (model, twin))
    # Some gradients are zero but for rounding: a bias before a BatchNorm in training. What is
    # summed up there is of the size of the largest, so its rounding is what they are allowed.
    largest = max(float(grad.abs().max()) for grad in theirs)
    noise = 100 * torch.finfo(theirs[0].dtype).eps * largest
    for mine, other in zip(ours, theirs, strict=True):
        own = float(other.abs().max())
        torch.testing.assert_close(mine, other, rtol=0, atol=bound * own + noise, msg=where)


def check(compiled: Any, model: Net, gradients: bool, where: str) -> None:
    """One call, against the eager model; in training, statistics count too.

    Gradients jump where rounding switches a unit: there, eager float32 may be as wrong as any.
    """
    dtype = model.head.weight.dtype
    bound = 1e-10 if dtype == torch.float64 else 1e-4
    x = torch.randn(3, 2, 7, 7, dtype=dtype)
    twin = copy.deepcopy(model)
    switched = dtype == torch.float32 and margin(twin, x) < 1e-5
    with torch.set_grad_enabled(gradients):
        actual, expected = compiled(model, x), twin(x)
    pairs = [(actual, expected), *zip(model.buffers(), twin.buffers(), strict=True)]
    if gradients and expected.requires_grad and not expected.isnan().any():
        factors = torch.randn_like(expected)
        for out in (actual, expected):
            (out.square() * factors).sum().backward()
        if not switched:
            check_gradients(model, twin, bound, where)
        model.zero_grad()
    for mine, other in pairs:
        mine, other = mine.detach(), other.detach()
        finite = other[other.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 1.0
        torch.testing.assert_close(
            mine, other, rtol=0, atol=bound * scale, equal_nan=True, msg=where
        )


def sequence(
    compiled: Any,
    seed: int,
    steps: Sequence[Step],
    with_gradients: bool,
    calls: Sequence[int] = (1, 2),
    between: Callable[[], None] = lambda: None,
) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    models = [Net(seed), Net(seed + 1)]
    history: list[str] = []
    for _ in range(STEPS):
        at = rng.randrange(2)
        step = rng.choice(steps)
        step(models[at], rng)
        history.append(f"{getattr(step, '__name__', 'broadcast')}({at})")
        for model in rng.sample(models, k=rng.choice([1, 2, 2])):
            gradients = with_gradients and rng.random() < 0.3
            where = f"seed {seed}: {' '.join(history)}, gradients {gradients}"
            for _ in range(rng.choice(calls)):
                check(compiled, model, gradients, where)
                between()


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("weights", ["auto", "live", "frozen", "traced"])
def test_whatever_happens(weights: str, seeds: range, broadcast: Broadcast) -> None:
    options = {"weights": weights, "inner": "eager"}
    compiled = torch.compile(forward, backend="bnfx", options=options)
    for seed in seeds:
        sequence(compiled, seed, (*CHEAP, *DEAR, broadcast), with_gradients=True)


def straight(options: dict[str, Any]) -> Callable[[nn.Module, torch.Tensor], Any]:
    """By ``bnfx.compile``, once for each model."""
    made = WeakKeyDictionary[nn.Module, Any]()

    def call(model: nn.Module, x: torch.Tensor) -> Any:
        if model not in made:
            made[model] = bnfx.compile(model, options=options)
        return made[model](x)

    return call


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each call that goes straight to its graph; as many do as can."""
    monkeypatch.setenv("BNFX_NATIVE", "1")
    monkeypatch.setattr(direct_calls, "SHARE", float("inf"))
    return count_direct(monkeypatch)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("weights", ["auto", "live", "frozen", "traced"])
def test_whatever_happens_to_direct_calls(
    weights: str, seeds: range, broadcast: Broadcast, direct: list[int]
) -> None:
    call = straight({"weights": weights, "inner": "eager"})
    for seed in seeds:
        sequence(call, seed, (*CHEAP, *DEAR, broadcast), with_gradients=True, calls=(1, 2, 3))
    assert len(direct) > 2 * len(seeds)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seeds", INDUCTOR_SEEDS, ids=str)
@pytest.mark.parametrize("weights", ["auto", "live", "frozen"])
def test_whatever_happens_under_inductor(weights: str, seeds: range, broadcast: Broadcast) -> None:
    options = {"weights": weights}
    compiled = torch.compile(forward, backend="bnfx", options=options)
    for seed in seeds:
        sequence(compiled, seed, (*CHEAP, broadcast), with_gradients=False)


ENGINES = {
    "openvino": "bnfx.inner.openvino.session.Requests",
    "onnxruntime": "bnfx.inner.onnxruntime.onnx_session.Bindings",
    "auto": "bnfx.inner.openvino.session.Requests",
}


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings("ignore::bnfx.errors.InnerWarning")  # NaN in a weight, among others
@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize(
    "seeds", [range(2000, 2002), pytest.param(range(2002, 2152), marks=pytest.mark.heavy)], ids=str
)
@pytest.mark.parametrize("way", ["torch", pytest.param("direct", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("inner", ENGINES)
def test_whatever_happens_before_an_engine(
    inner: str,
    way: str,
    seeds: range,
    joins: bool,
    direct: list[int],
    broadcast: Broadcast,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Built anew after each first call behind a write, as often as can be: with builds that are
    through before the next call, and with calls and writes while they go on.
    """
    for package in ("openvino", "onnxruntime") if inner == "auto" else (inner,):
        pytest.importorskip(package)
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path)
    # So small a net is PyTorch's by a trial; this is about what comes after it.
    monkeypatch.setattr(trial, "_times", lambda ways, examples: dict.fromkeys(ways, 0.0))
    monkeypatch.setattr(freezing, "QUIET_CALLS", 1)
    monkeypatch.setattr(freezing, "SHARE", float("inf"))
    requests = pkgutil.resolve_name(ENGINES[inner])
    answer, answered = requests.__call__, list[int]()

    def counted(self: Any, *args: Any) -> Any:
        answered.append(1)
        return answer(self, *args)

    monkeypatch.setattr(requests, "__call__", counted)
    by_torch = torch.compile(forward, backend="bnfx", options={"inner": inner})
    compiled = straight({"inner": inner}) if way == "direct" else by_torch
    for seed in seeds:
        between = join_builds if joins else lambda: None
        steps = (*CHEAP, unfit, mend, broadcast)
        sequence(compiled, seed, steps, with_gradients=False, calls=(1, 3, 5), between=between)
    join_builds()
    assert len(answered) > (10 if joins else 0) * len(seeds)
    assert len(direct) > (2 * len(seeds) if way == "direct" else -1)
