"""A model whose ``forward`` is a function, and what its trace without inputs answers."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import relative
from torch import nn

import bnfx
from bnfx.errors import CaptureError
from bnfx.folding.capturing.symbolic import trace

T, P = torch.Tensor, nn.Parameter
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Way = Callable[[Any, Any], Any]


class Odd(nn.Module):
    """Its bias is computed."""

    saved: Any = None

    def __getattr__(self, name: str) -> Any:
        return nn.Module.__getattribute__(self, "saved") if name == "bias" else None


class Net(nn.Module):
    """Calls ``way``; has a layer, a parameter, and attributes of other kinds."""

    mode = "a"

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.c, self.none = nn.Conv2d(3, 3, 1), None
        self.w = nn.Parameter(torch.ones(3, 1, 1))
        self.register_buffer("b", torch.ones(3, 1, 1))
        self.block = nn.Conv2d(3, 3, 1)
        self.seq = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.ps = nn.ParameterList([nn.Parameter(torch.ones(3, 1, 1))])
        self.deep: dict[str, Any] = {"a": {}, "is": operator.is_}
        self.kind, self.flag, self.plain = type, True, [torch.ones(1)]
        self.space = types.SimpleNamespace(x=None, t=torch.ones(1))
        self.saved: Any = None
        self.tied, self.odd = nn.Conv2d(3, 3, 1), Odd()
        self.tied.weight = self.c.weight
        self.table: dict[str, Any] = {"a": "t"}
        self.numbers, self.texts = [1, 2], ["c", "c"]
        self.rows: dict[str, dict[str, Any]] = {"a": {}}

    @property
    def computed(self) -> Any:
        return self.saved

    def twice(self, x: Any) -> Any:
        return self.c(x) * 2

    def named(self) -> str:
        return f"{self.mode}"

    def forward(self, x: Any) -> Any:
        return self.way(self, x)


class Forms(dict[str, Way]):
    """Functions by name."""

    def __call__(self, way: Way) -> Way:
        self[way.__name__] = way
        return way


def refused(way: Way) -> str:
    """Why there is no trace of a model that answers ``X``."""
    model = Net(way).eval()
    try:
        graph = trace(model)
    except CaptureError as error:
        model(X)
        return str(error)
    right = relative(graph(X), model(X)) < 1e-6
    raise AssertionError(f"was traced, and is {'right' if right else 'WRONG'}")


def check_refused(model: nn.Module) -> None:
    """There is no graph of it without inputs, though it takes some."""
    with pytest.raises(CaptureError):
        bnfx.fold(model, keep="graph")
    with torch.no_grad():
        model(X)


def check_taken(way: Way) -> None:
    """It is traced, and right."""
    model = Net(way).eval()
    graph = trace(model)
    assert relative(graph(X), model(X)) < 1e-6
