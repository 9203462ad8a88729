"""Compilers behind bnfx that raise, when they compile or when they are called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import count_batch_norms, randomise, relative
from torch import nn

import bnfx

X = torch.randn(2, 3, 6, 6)


class BrokenError(RuntimeError):
    """What the compiler raises."""


def net() -> nn.Module:
    return randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()


class Sometimes:
    """A compiler that raises while ``broken(graph)``, in one of its two steps."""

    def __init__(self, when: str, broken: Callable[[Any], bool]) -> None:
        self.when, self.broken, self.calls = when, broken, 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        self._maybe(graph, "compile")

        def run(*arguments: Any) -> Any:
            self._maybe(graph, "call")
            return graph(*arguments)

        return run

    def _maybe(self, graph: torch.fx.GraphModule, now: str) -> None:
        self.calls += 1
        if now == self.when and self.broken(graph):
            raise BrokenError("injected")


@pytest.mark.parametrize("weights", ["live", "frozen", "traced"])
@pytest.mark.parametrize("when", ["compile", "call"])
def test_what_the_compiler_raises_is_told(when: str, weights: str) -> None:
    """It would raise without bnfx too: no answer is made up."""
    model = net()
    inner = Sometimes(when, lambda graph: True)
    compiled = torch.compile(model, backend="bnfx", options={"inner": inner, "weights": weights})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match="injected") as caught:
            compiled(X)
    chain: list[BaseException] = [caught.value]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    assert any(isinstance(error, BrokenError) for error in chain)
    assert inner.calls


@pytest.mark.parametrize("weights", ["live", "frozen", "traced"])
def test_a_compiler_that_cannot_take_the_folded_graph_gets_the_models(weights: str) -> None:
    model = net()
    inner = Sometimes("compile", lambda graph: not count_batch_norms(graph))
    compiled = torch.compile(model, backend="bnfx", options={"inner": inner, "weights": weights})
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert relative(compiled(X), model(X)) < 1e-5
    told = [w for w in caught if issubclass(w.category, bnfx.RewriteWarning)]
    assert "injected" in str(told[0].message)


def test_the_next_call_after_a_failed_one_is_right() -> None:
    """Half of a state must not be kept: what failed once is done again."""
    model, failing = net(), [True]
    inner = Sometimes("call", lambda graph: failing[0])
    compiled = torch.compile(model, backend="bnfx", options={"inner": inner})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BrokenError):
            compiled(X)
        failing[0] = False
        assert relative(compiled(X), model(X)) < 1e-5
        model[1].running_mean.add_(1.0)
        failing[0] = True
        with pytest.raises(BrokenError):
            compiled(X)
        failing[0] = False
        assert relative(compiled(X), model(X)) < 1e-5
