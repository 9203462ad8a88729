"""What an engine is, and what it built for one combination of sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx

# Of outputs; ``None`` where the graph says them.
Sizes = Sequence[tuple[int, ...]] | None
Run = Callable[[Sequence[Any], Sizes], list[torch.Tensor]]


class Engine(Protocol):
    """A compiler for inference.

    Attributes:
        name: for sentences.
        allowed: dtype -> the error of an answer that counts as rounding.
        keeps_nan: whether a maximum with NaN is NaN.
    """

    name: str
    keeps_nan: bool
    allowed: Mapping[torch.dtype, float]

    def build(self, graph: fx.GraphModule) -> Run:
        """Compile a graph of ATen operators.

        What it gives takes the tensors and numbers of a call, all finite, in other dtypes than
        float32 where nothing but a conversion reads them, and the sizes of its outputs where these
        are open. It returns outputs that are contiguous, in float32, in memory of torch's own.

        Raises:
            EngineRefusal: naming what it does not take.
        """


def shared(value: torch.Tensor) -> np.ndarray:
    """The memory of a tensor, for NumPy. (After ``Tensor.numpy`` it could not be resized.)"""
    return np.from_dlpack(value.detach())


def given(args: Sequence[Any], taken: Sequence[int]) -> list[torch.Tensor]:
    """What an engine reads of a call's arguments: contiguous, in float32."""
    return [_plain(args[at]) for at in taken]


def _plain(value: torch.Tensor) -> torch.Tensor:
    if value.dtype is torch.float32 and value.is_contiguous():
        return value  # the usual case: what follows costs small nets
    return value.detach().float().contiguous()


def room(sizes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Memory for what an engine returns, whatever the caller's defaults are."""
    return [torch.empty(size, dtype=torch.float32, device="cpu") for size in sizes]


@dataclass(frozen=True)
class Output:
    """One of what the graph returns.

    Args:
        at: which of the engine's outputs it is; ``None``: it is ``None``.
        stride: if it is not contiguous, or not in float32.
    """

    at: int | None
    stride: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32

    @staticmethod
    def like(at: int, value: torch.Tensor) -> Output:
        plain = value.is_contiguous() and value.dtype == torch.float32
        return Output(at, None if plain else value.stride(), value.dtype)

    def of(self, answers: Sequence[torch.Tensor]) -> torch.Tensor | None:
        if self.at is None:
            return None
        ours = answers[self.at]
        if self.stride is None:
            return ours
        return ours.new_empty_strided(ours.shape, self.stride, dtype=self.dtype).copy_(ours)


@dataclass(frozen=True, eq=False)
class Built:
    """What was built for one combination of sizes; ``None``: PyTorch runs it.

    Args:
        run: takes what ``widen`` makes of the arguments.
        wide: what ``run`` was built from; gone once that is checked.
        fits: for which arguments, where sizes are open.
        sizes: of the outputs for these arguments, where they are open.
    """

    run: Run | None
    widen: Callable[[Sequence[Any]], Sequence[Any]] = tuple
    wide: fx.GraphModule | None = None
    outputs: tuple[Output, ...] = ()
    checked: bool = False
    fits: Callable[[Sequence[Any]], bool] | None = None
    sizes: Sizes = None
