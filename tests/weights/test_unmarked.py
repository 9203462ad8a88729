"""Writes that leave no mark: what is told, by whom, and that the record of it stays small."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from counting import counted
from recorded import small
from support import InPlace, relative
from torch import nn

import bnfx
from bnfx.weights.changes import unmarked_writes


def deaf(model: nn.Sequential) -> None:
    """Nothing shows it: one element of a weight that is not compared whole."""
    model[3].weight.detach().numpy()[1, 2, 1, 0] += 5.0


def large() -> nn.Sequential:
    model = small()
    model[0] = nn.Conv2d(3, 64, 3)
    model[1] = nn.BatchNorm2d(64)
    model[3] = nn.Conv2d(64, 8, 3)
    return InPlace(*model).eval().requires_grad_(False)


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
OPTIONS = {"inner": "eager"}


@pytest.mark.parametrize("way", ["in place", "wrapped inside", "method", "function", "all"])
def test_refresh_takes_whatever_was_compiled(way: str) -> None:
    model = large()
    outer = nn.Sequential(model, nn.Tanh())
    told: object = outer
    if way == "in place":
        model.compile(backend="bnfx", options=OPTIONS)
        call = outer
    elif way == "wrapped inside":
        outer[0] = torch.compile(model, backend="bnfx", options=OPTIONS)
        call = outer
    elif way == "method":
        model.forward = torch.compile(model.forward, backend="bnfx", options=OPTIONS)
        call = outer
    else:
        call = told = torch.compile(lambda x: outer(x), backend="bnfx", options=OPTIONS)
    plain = lambda: nn.Sequential(*model, nn.Tanh())(X)  # noqa: E731
    with torch.no_grad():
        assert relative(call(X), plain()) < 1e-5
        deaf(model)
        assert relative(call(X), plain()) > 1e-3, "else it would prove nothing"
        bnfx.refresh(None if way == "all" else told)
        assert relative(call(X), plain()) < 1e-5


@pytest.mark.parametrize("wrong", [3, nn.Conv2d(1, 1, 1), len, "model"])
def test_refresh_says_what_it_takes(wrong: object) -> None:
    with pytest.raises(TypeError, match="takes what"):
        bnfx.refresh(wrong)


def test_the_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is full it is forgotten, which folds each model once too often and loses nothing."""
    monkeypatch.setattr(unmarked_writes, "MAX_KEPT", 100)
    model, others = large(), [torch.zeros(1) for _ in range(500)]
    compiled = torch.compile(model, backend="bnfx", options=OPTIONS)
    with torch.no_grad(), counted() as count:
        compiled(X)
        for turn in range(20):
            deaf(model)
            unmarked_writes.mark(model.parameters())
            for at in range(0, 500, 50):
                unmarked_writes.mark(others[at : at + 50])
            assert len(unmarked_writes._written) <= 160
            assert relative(compiled(X), model(X)) < 1e-5, turn
        count.took()
        for _ in range(3):
            compiled(X)
        assert count.took() == (0, 0)


def test_an_optimizer_step_in_the_middle_of_a_look_is_seen_by_the_next() -> None:
    model = large()
    compiled = torch.compile(model, backend="bnfx", options=OPTIONS)
    with torch.no_grad():
        for _ in range(3):
            deaf(model)
            group = {"params": list(model.parameters())}
            unmarked_writes._after_step(SimpleNamespace(param_groups=[group]), (), {})
            assert relative(compiled(X), model(X)) < 1e-5
