"""Gives a graph's outputs the memory that they have without a compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bnfx.inner.unsaved import Unsaved
from bnfx.passes.fx.memory.output_memory import OutputMemory, View


def keeping_memory(compiled: Callable[..., Any], memory: OutputMemory) -> Callable[..., Any]:
    """What was compiled from ``memory.module``, with the outputs of the original graph."""
    return compiled if memory.is_kept else KeptMemory(compiled, memory)


class KeptMemory(Unsaved):
    """Views are made of what they are views of, and what is separate is separate."""

    def __init__(self, compiled: Callable[..., Any], memory: OutputMemory) -> None:
        self._compiled = compiled
        self._outputs = memory.outputs
        self._own = memory.own
        self._arguments = memory.arguments
        views = [each for each in memory.outputs if isinstance(each, View)]
        self._wholes = {view.base: view.whole for view in views}

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        values = list(self._compiled(*args))
        taken = {_address(args[at]) for at in self._arguments}
        for at in self._own:
            address = _address(values[at])
            if address and address in taken:
                values[at] = values[at].clone()
            else:
                taken.add(address)
        for at, whole in self._wholes.items():
            values[at] = _laid_out(values[at], whole.numbers(args))
        return tuple(
            _viewed(values[each.base], each, args) if isinstance(each, View) else values[each]
            for each in self._outputs
        )


def _address(value: torch.Tensor) -> int:
    """Of its memory; 0 if that is empty, or it has none."""
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a fake tensor, or one of another layout
        return 0


def _laid_out(value: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """The same value, with these strides where they matter."""
    sizes, strides = value.shape, numbers[value.dim() : 2 * value.dim()]
    same = all(
        one == other or size < 2
        for one, other, size in zip(value.stride(), strides, sizes, strict=True)
    )
    if same and value.storage_offset() == 0:
        return value
    return value.new_empty_strided(sizes, strides).copy_(value)


def _viewed(value: torch.Tensor, view: View, args: Sequence[Any]) -> torch.Tensor:
    part = view.part
    numbers, dims = part.numbers(args), part.dims
    value = value.detach() if view.detached else value
    if value.dtype != part.dtype:
        value = value.as_strided((value.numel(),), (1,), 0).view(part.dtype)
    return value.as_strided(numbers[:dims], numbers[dims : 2 * dims], numbers[-1])
