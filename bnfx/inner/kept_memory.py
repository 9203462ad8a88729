"""Gives a graph's outputs the memory that they have without a compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bnfx.inner.unsaved import Unsaved
from bnfx.passes.fx.memory.output_memory import OutputMemory, Place, View


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
        self._bases = {each.base for each in memory.outputs if isinstance(each, View)}

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        values = list(self._compiled(*args))
        for at in self._shared(values, args):
            values[at] = _laid_out(values[at], self._own[at], args, anew=True)
        for at in self._bases:
            values[at] = _laid_out(values[at], self._own[at], args)
        return tuple(
            _viewed(values[each.base], each.part, args) if isinstance(each, View) else values[each]
            for each in self._outputs
        )

    def _shared(self, values: Sequence[Any], args: Sequence[Any]) -> list[int]:
        """Those that are to have memory of their own, and lie in that of an argument, in another's
        (one of them keeps it: that which is all of it, if there is one), or as part of something
        else with its strides.
        """
        shared: list[int] = []
        taken: dict[int, tuple[int | None, bool]] = {
            _memory(args[at])[0]: (None, True) for at in self._arguments
        }
        for at, place in self._own.items():
            address, whole = _memory(values[at])
            if not address:
                continue
            keeper, is_better = taken.setdefault(address, (at, whole))
            if keeper == at:
                if not whole and place is not None and not _lies_so(values[at], place, args):
                    shared.append(at)
            elif keeper is None or is_better:
                shared.append(at)
            else:
                taken[address] = at, whole
                shared.append(keeper)
        return shared


def _memory(value: torch.Tensor) -> tuple[int, bool]:
    """Its address, and whether the value is all of it; address 0 if it is empty or has none."""
    try:
        storage = value.untyped_storage()
        return storage.data_ptr(), value.nbytes == storage.nbytes()
    except (RuntimeError, NotImplementedError):  # a fake tensor, or one of another layout
        return 0, False


def _laid_out(
    value: torch.Tensor, place: Place | None, args: Sequence[Any], anew: bool = False
) -> torch.Tensor:
    """The same value, with the strides of that place where they matter.

    Args:
        anew: in other memory, whatever its strides are.
    """
    if place is None:
        return value.clone()
    if not anew and value.storage_offset() == 0 and _lies_so(value, place, args):
        return value
    return value.new_empty_strided(value.shape, _strides(place, args)).copy_(value)


def _lies_so(value: torch.Tensor, place: Place, args: Sequence[Any]) -> bool:
    strides = zip(value.stride(), _strides(place, args), value.shape, strict=True)
    return all(one == other or size < 2 for one, other, size in strides)


def _strides(place: Place, args: Sequence[Any]) -> tuple[int, ...]:
    return place.numbers(args)[place.dims : 2 * place.dims]


def _viewed(value: torch.Tensor, part: Place, args: Sequence[Any]) -> torch.Tensor:
    numbers, dims = part.numbers(args), part.dims
    if value.dtype != part.dtype:
        value = value.as_strided((value.numel(),), (1,), 0).view(part.dtype)
    return value.as_strided(numbers[:dims], numbers[dims : 2 * dims], numbers[-1])
