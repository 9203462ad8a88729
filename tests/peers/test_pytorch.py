"""PyTorch's own suites on folding, replayed: right, and nothing left of what they count."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from peers.cases_pytorch import CASES, Replayed
from support import Capture, randomise, relative

import bnfx

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
ARITHMETIC = {"add", "sub", "mul", "div", "truediv"}


def arithmetic(graphs: list[torch.fx.GraphModule]) -> int:
    """Ops of arithmetic that are left."""
    found = 0
    for graph in graphs:
        for node in graph.graph.nodes:
            name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
            found += node.op.startswith("call_") and name in ARITHMETIC
    return found


def replay(case: Replayed) -> None:
    torch._dynamo.reset()
    model = copy.deepcopy(case.model)
    model = (randomise(model) if case.random else model).eval().to(case.dtype)
    inputs = [torch.rand(shape, dtype=case.dtype) for shape in (case.shape, *case.more)]
    capture = Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    with torch.no_grad():
        expected = listed(copy.deepcopy(model).double()(*(x.double() for x in inputs)))
        for mine, theirs in zip(listed(compiled(*inputs)), expected, strict=True):
            assert relative(mine, theirs) < BOUNDS[case.dtype]
    if case.norms is not None:
        assert capture.batch_norms() == case.norms
    if case.arithmetic is not None:
        assert arithmetic(capture.graphs) == case.arithmetic


def listed(value: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_each_suite_is_there() -> None:
    counts = Counter(case.suite for case in CASES)
    assert counts == {
        "test_efficient_conv_bn_eval": 56,
        "test_binary_folding": 78,
        "test_inductor_freezing": 9,
        "jit/test_freezing": 12,
        "test_fx_experimental": 3,
    }
    assert len({(case.suite, case.name) for case in CASES}) == len(CASES)


def _marked(at: int, case: Replayed) -> object:
    marks = () if at % 11 == 0 else pytest.mark.heavy
    return pytest.param(case, id=f"{case.suite}-{case.name}", marks=marks)


@pytest.mark.parametrize("case", [_marked(at, case) for at, case in enumerate(CASES)])
def test_replayed(case: Replayed) -> None:
    replay(case)


@pytest.mark.slow
def test_arithmetic_is_counted() -> None:
    """Without bnfx, it is all there: a count of nothing would prove nothing."""
    for case in CASES:
        if case.suite == "test_binary_folding" and "conv2d" in case.name and "bn" not in case.name:
            torch._dynamo.reset()
            capture = Capture()
            torch.compile(case.model, backend=capture)(torch.rand(case.shape))
            assert arithmetic(capture.graphs) == 1, case.name


def test_a_training_step_between_two_answers() -> None:
    """``test_efficient_conv_bn_eval`` steps an optimiser and compares again."""
    model = randomise(copy.deepcopy(CASES[0].model)).eval().double()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    x = torch.rand(CASES[0].shape, dtype=torch.float64)
    for network, parameters in ((compiled, model), (twin, twin)):
        optimiser = torch.optim.SGD(parameters.parameters(), lr=1e-3)
        network(x).mean().backward()
        optimiser.step()
    assert relative(compiled(x), twin(x)) < 1e-12


def test_the_model_still_runs_eagerly() -> None:
    """Freezing breaks the eager model (``test_error_on_eager``); bnfx leaves it alone."""
    model = randomise(copy.deepcopy(CASES[0].model)).eval().double()
    x = torch.rand(CASES[0].shape, dtype=torch.float64)
    expected = model(x)
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options={"inner": "eager"})(x)
    assert torch.equal(model(x), expected)
    assert bnfx.explain(model, x).count("folded") == 1
