"""A forward that another one may stand for at the next call, and what stands around one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from direct_models import check, compiled
from torch import nn


class Chosen(nn.Module):
    doubles = False

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2).eval()

    def first(self, x: torch.Tensor) -> Any:
        return self.norm(x)

    def second(self, x: torch.Tensor) -> Any:
        return self.norm(x) * 2


class ByProperty(Chosen):
    @property
    def forward(self) -> Any:  # type: ignore[override]
        return self.second if Chosen.doubles else self.first


class ByLookup(Chosen):
    def __getattribute__(self, name: str) -> Any:
        if name == "forward":
            name = "second" if Chosen.doubles else "first"
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", [ByProperty, ByLookup])
def test_a_forward_that_is_chosen_at_each_call(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kind().eval()
    call, x = compiled(model), torch.randn(1, 2, 3, 3)
    with torch.no_grad():
        for doubles in (False, True, False):
            monkeypatch.setattr(Chosen, "doubles", doubles)
            check(call, model, x)


def test_a_tensor_around_forward_that_is_replaced(direct: list[int]) -> None:
    factor = torch.ones(2, 1, 1)

    class Scaled(Chosen):
        def forward(self, x: torch.Tensor) -> Any:
            return self.norm(x) * factor

    model = Scaled().eval()
    call, x = compiled(model), torch.randn(1, 2, 3, 3)
    with torch.no_grad():
        for number in (1.0, 2.0, 3.0):
            factor = torch.full((2, 1, 1), number)
            check(call, model, x)
            before = len(direct)
            call(x)
            assert len(direct) == before + 1, call._bnfx_calls.why_not
