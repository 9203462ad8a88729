"""The ways to run a model that are compared."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import bnfx
from bnfx.bench.on_models.twins import twin_of

Call = Callable[..., Any]


@dataclass(frozen=True)
class Way:
    """One way to run a model.

    Args:
        make: model, input -> what is called.
        freezing: whether Inductor's global option ``freezing`` is on while it compiles: as an
            option of ``torch.compile`` it does nothing.
        needs_gpu: whether it is something else than another way where there is no GPU.
        answers: whether its answer is to be the model's.
    """

    make: Callable[[nn.Module, torch.Tensor], Call]
    freezing: bool = False
    needs_gpu: bool = False
    answers: bool = True


def _eager(model: nn.Module, x: torch.Tensor) -> Call:
    return model


def _folded(model: nn.Module, x: torch.Tensor) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded: nn.Module = bnfx.fold(model, x, keep="graph", verify=False)
    return folded


@dataclass(frozen=True)
class _Compiled:
    """``torch.compile`` with these arguments; of a copy, so that no code is shared."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    twin: bool = False

    def __call__(self, model: nn.Module, x: torch.Tensor) -> Call:
        own = twin_of(model) if self.twin else copy.deepcopy(model)
        compiled: Call = torch.compile(own, dynamic=False, **self.arguments)
        return compiled


def _bnfx(mode: str | None = None, **options: Any) -> _Compiled:
    return _Compiled({"backend": "bnfx", "mode": mode, "options": options})


_CUDA_GRAPHS = "reduce-overhead"
WAYS: Mapping[str, Way] = {
    "eager": Way(_eager),
    "eager, folded": Way(_folded),
    "Inductor": Way(_Compiled()),
    "bnfx": Way(_bnfx()),
    "Inductor, freezing": Way(_Compiled({"options": {"freezing": True}}), freezing=True),
    "twin without BatchNorms": Way(
        _Compiled({"options": {"freezing": True}}, twin=True), freezing=True, answers=False
    ),
    "Inductor, CUDA graphs": Way(_Compiled({"mode": _CUDA_GRAPHS}), needs_gpu=True),
    "bnfx, CUDA graphs": Way(_bnfx(_CUDA_GRAPHS), needs_gpu=True),
    "bnfx, check=deferred": Way(_bnfx(check="deferred")),
    "bnfx, check=marks": Way(_bnfx(check="marks")),
    "bnfx, marks, CUDA graphs": Way(_bnfx(_CUDA_GRAPHS, check="marks"), needs_gpu=True),
    "bnfx, cudnn_fusion=trial": Way(_bnfx(cudnn_fusion="trial"), needs_gpu=True),
    "bnfx, live": Way(_bnfx(weights="live")),
    "bnfx, live, channels_last": Way(_bnfx(weights="live", weight_layout="channels_last")),
}
NAMES = tuple(WAYS)
OPTIONS = NAMES[NAMES.index("bnfx, check=deferred") :]
MAIN = NAMES[: len(NAMES) - len(OPTIONS)]
