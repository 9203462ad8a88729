"""What the look at a first answer takes for rounding, and what it tells of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import fail_on_warnings
from torch import fx, nn

from bnfx.errors import InnerWarning
from bnfx.folding.first_answer import may_serve, unexplained

X = torch.linspace(0.1, 1.0, 64)
BIG = torch.full((2,), 3e38)


def traced(function: Callable[..., Any]) -> fx.GraphModule:
    return fx.symbolic_trace(function)


def off_by(error: float, module: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: tuple(each * (1 + error) for each in module(*args))


def zeros(*args: Any) -> Any:
    return (torch.zeros_like(X),)


def fail(*args: Any) -> Any:
    raise AssertionError("nobody was to look")


def twice(x: torch.Tensor) -> Any:
    return (x * 2,)


def in_bfloat16(x: torch.Tensor) -> Any:
    return (x.bfloat16().float() * 2,)


def in_float32(x: torch.Tensor) -> Any:
    return (x.float().double() * 2,)


@pytest.mark.parametrize(
    ("graph", "dtype", "error", "bound"),
    [
        (twice, torch.float32, 9e-4, None),
        (twice, torch.float32, 2e-3, "1.0e-03"),
        (twice, torch.float64, 9e-10, None),
        (twice, torch.float64, 2e-9, "1.0e-09"),
        (in_bfloat16, torch.float32, 0.0625, None),
        (in_bfloat16, torch.float32, 7e-2, "6.2e-02"),
        (in_float32, torch.float64, 9e-4, None),
        (in_float32, torch.float64, 2e-3, "1.0e-03"),
    ],
)
def test_what_rounding_explains(
    graph: Callable[..., Any], dtype: torch.dtype, error: float, bound: str | None
) -> None:
    module = traced(graph)
    found = unexplained(module, off_by(error, graph), [X.to(dtype)])
    assert found is None or found.endswith(f"{error:.1e}, where rounding explains {bound}")
    assert (found is None) == (bound is None)


def chaotic(x: torch.Tensor) -> Any:
    return ((x * 1e4).sin(),)


def cancelling(x: torch.Tensor) -> Any:
    """Zero, by way of what float32 does not hold."""
    return (x * 10 - x * 10,)


def stepping(x: torch.Tensor) -> Any:
    return (x.round(),)


def exact(x: torch.Tensor) -> Any:
    return (chaotic(x.double())[0].float(),)


def stepping_off(x: torch.Tensor) -> Any:
    return ((x * (1 - 3e-7)).round(),)


LAST = torch.full((64,), torch.finfo(torch.float32).max / 2)
HALVES = torch.nextafter(torch.arange(1, 60) + 0.5, torch.tensor(math.inf))


@pytest.mark.parametrize(
    ("graph", "x", "compiled", "is_told"),
    [
        (chaotic, X * 10, exact, False),  # it is nearer to the truth than PyTorch
        (chaotic, X * 10, off_by(0.5, chaotic), True),
        (chaotic, X * 10, zeros, True),
        (cancelling, BIG, lambda x: (torch.full_like(x, math.inf),), False),  # PyTorch's is NaN
        (stepping, HALVES, stepping_off, False),
        (twice, LAST, lambda x: (torch.full_like(x, math.inf),), False),  # the next is infinite
        (stepping, HALVES, off_by(20.0, stepping), True),
    ],
)
def test_what_a_graph_makes_of_rounding(
    graph: Callable[..., Any], x: torch.Tensor, compiled: Callable[..., Any], is_told: bool
) -> None:
    assert (unexplained(traced(graph), compiled, [x]) is not None) == is_told


class Weighted(nn.Module):
    """Has no answer in float64 where the matrix may not be read so."""

    def __init__(self, narrow: bool, times: float) -> None:
        super().__init__()
        self.narrow, self.times = narrow, times
        self.register_buffer("by", torch.eye(64))

    def forward(self, x: torch.Tensor) -> Any:
        x = x.float() if self.narrow else x
        return ((x @ self.by * self.times).sin(),)


@pytest.mark.parametrize(
    ("narrow", "times", "is_told"),
    [(False, 1.0, True), (True, 1.0, True), (False, 1e7, False), (True, 1e7, False)],
)
def test_where_there_is_no_exact_answer(
    narrow: bool, times: float, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What the graph makes of a change in the last bit of its inputs is looked at anyway."""
    module, answer = traced(Weighted(narrow, times)), (torch.full_like(X, 0.5),)
    with caplog.at_level("DEBUG", "bnfx"):
        assert (unexplained(module, lambda x: answer, [X]) is not None) == is_told
    assert ("to have the same dtype" in caplog.text) == narrow


def test_the_model_stays_in_its_dtype() -> None:
    module = traced(Weighted(False, 1e4))
    unexplained(module, zeros, [X])
    assert module.by.dtype == torch.float32


def picked(x: torch.Tensor, at: torch.Tensor, times: int) -> Any:
    return x[at] * times, x.size(0)


def test_inputs_and_outputs_of_any_kind() -> None:
    inputs = [X, torch.arange(3), 4]
    module = traced(picked)
    assert unexplained(module, picked, inputs) is None
    assert unexplained(module, lambda x, at, times: (x[at], x.size(0)), inputs)
    assert unexplained(module, lambda x, at, times: (x[at] * times, 7), inputs)
    assert unexplained(module, lambda x, at, times: [*picked(x, at, times)], inputs) is None


class Looking(nn.Module):
    """Amplifies rounding of what it looks up; no input of it has a last bit to change."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("of", X.sqrt())

    def forward(self, at: torch.Tensor, times: int) -> Any:
        return ((self.of[at] * 1.1 * times).sin(),)


def test_indices_stay_indices_where_the_exact_answer_is_asked_for() -> None:
    model = Looking()

    def compiled(at: torch.Tensor, times: int) -> Any:
        return ((model.of[at].double() * 1.1 * times).sin().float(),)

    inputs = [torch.arange(9), 100_000]
    assert unexplained(traced(model), compiled, inputs) is None
    assert unexplained(traced(model), lambda *args: (torch.zeros(9),), inputs)


def test_whole_numbers_are_not_rounded() -> None:
    whole = torch.arange(5)
    assert unexplained(traced(twice), twice, [whole]) is None
    assert unexplained(traced(twice), lambda x: (x * 2 + 1,), [whole])


def test_weights_that_somebody_writes_meanwhile() -> None:
    """Even if most of it is taken back."""
    model = Weighted(False, 1.0)
    module = traced(model)

    def written(x: torch.Tensor) -> Any:
        model.by.add_(1)
        answer = module(x)
        model.by.sub_(1 - 1e-6)
        return answer

    assert unexplained(module, written, [X]) is None


@pytest.mark.parametrize(
    ("inner", "name"), [("inductor", "inductor"), (in_bfloat16, "the inner compiler")]
)
@pytest.mark.parametrize("choice", ["warn", "forbid"])
def test_the_compiler_is_named(inner: object, name: str, choice: str) -> None:
    with pytest.warns(InnerWarning, match=f"^bnfx: {name} answers otherwise than PyTorch"):
        assert may_serve(traced(twice), in_bfloat16, [X], inner, choice) == (choice == "warn")


@pytest.mark.parametrize("choice", ["warn", "forbid"])
def test_where_nothing_is_found_it_may_serve(choice: str, caplog: pytest.LogCaptureFixture) -> None:
    def out_of_memory(x: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("no memory for a second answer")

    with warnings.catch_warnings(), caplog.at_level("DEBUG", "bnfx"):
        fail_on_warnings()
        assert may_serve(traced(twice), out_of_memory, [X], "eager", choice)
        assert may_serve(traced(twice), twice, [X], "eager", choice)
        assert may_serve(traced(twice), fail, [X], "eager", "off")
    assert "no memory for a second answer" in caplog.text
