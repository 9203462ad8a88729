"""For tests of ``bnfx.compile``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import bnfx
from bnfx.direct.shortcut import Shortcut


class Scaled(nn.Module):
    factor = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2).double().eval()

    def forward(self, x: torch.Tensor, y: Any = None, **more: Any) -> Any:
        return self.norm(x) * self.factor * (1 if y is None else y)


def image(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (1, 2, 3, 3)), dtype=torch.float64)


def compiled(model: nn.Module) -> Any:
    return bnfx.compile(model, options={"inner": "eager"})


def count_direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each call that goes straight to its graph."""
    counted, answer = list[int](), Shortcut.answer

    def count(self: Shortcut, scope: Any) -> Any:
        counted.append(1)
        return answer(self, scope)

    monkeypatch.setattr(Shortcut, "answer", count)
    return counted


def check(call: Any, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Three calls, against the model itself: the later ones may be direct."""
    for _ in range(3):
        actual, expected = call(*args, **kwargs), model(*args, **kwargs)
        ours, theirs = tree_flatten(actual), tree_flatten(expected)
        assert ours[1] == theirs[1]
        for mine, other in zip(ours[0], theirs[0], strict=True):
            if isinstance(mine, torch.Tensor):
                torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
            else:
                assert mine == other
