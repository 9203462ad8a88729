"""Every private name of torch that the passes use, and what stands for it where it is gone.

A name that a version of torch does not have costs a fold or a saving, never a right answer:
``docs/private-torch.md`` says which.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx


def find(path: str) -> Any | None:
    """``module:attribute``, or ``None`` where this torch has no such name."""
    module, _, name = path.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split(".") if name else ():
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


class _Nothing:
    """A class of which nothing is an instance."""


FakeTensor: type[torch.Tensor] = find("torch._subclasses.fake_tensor:FakeTensor") or type(
    "FakeTensor", (torch.Tensor,), {}
)
HigherOrderOperator: type = find("torch._ops:HigherOrderOperator") or _Nothing
# Functions of torch.nn.functional, by the name that traces show for some of them.
NN: Any = find("torch._C:_nn")
OpOverload: Any = type(torch.ops.aten.add.Tensor)
OpOverloadPacket: Any = type(torch.ops.aten.add)

_detect_fake_mode = find("torch._guards:detect_fake_mode")
_is_dense = find("torch._prims_common:is_non_overlapping_and_dense_or_false")
_StorageWeakRef = find("torch.multiprocessing.reductions:StorageWeakRef")
_is_batched = find("torch._C._functorch:is_batchedtensor")
_batch_axis = find("torch._C._functorch:maybe_get_bdim")
_unwrapped = find("torch._C._functorch:get_unwrapped")
_DisableAutocast = find("torch._C:_DisableAutocast")

# What switches gradients, and the argument that switches them off.
_SWITCHES = {"_set_grad_enabled": False, "set_grad_enabled": False, "_enter_inference_mode": True}


def schema_of(target: object) -> Any | None:
    """An overload's schema; ``None`` for anything else, and where overloads do not have one."""
    return getattr(target, "_schema", None) if isinstance(target, OpOverload) else None


def fake_mode_of(values: Sequence[Any]) -> Any | None:
    """The fake mode that is on, or that some of ``values`` belong to."""
    if _detect_fake_mode is not None:
        return _detect_fake_mode(values)
    modes = (getattr(value, "fake_mode", None) for value in values)
    return next((mode for mode in modes if mode is not None), None)


def fills_its_memory(value: torch.Tensor) -> bool:
    """Whether each element of the tensor's memory is its own, in whatever order; no if unknown."""
    return bool(_is_dense is not None and _is_dense(value))


def axes_in_vmap(value: torch.Tensor) -> list[tuple[Any, Any]] | None:
    """Size and stride of each axis of what ``torch.vmap`` shows as ``value``, batches first;
    ``None`` if it is no such value.
    """
    if _is_batched is None or _batch_axis is None or _unwrapped is None or not _is_batched(value):
        return None
    batches: list[int] = []
    while _is_batched(value):
        batches.append(_batch_axis(value))
        value = _unwrapped(value)
    axes = list(zip(value.shape, value.stride(), strict=True))
    return [axes.pop(batch) for batch in reversed(batches)] + axes


def memory(tensor: torch.Tensor) -> object:
    """What tells whether two tensors share memory; ``None`` for layouts without a storage.

    Tensors that cannot be told apart are taken to share it.
    """
    if tensor.layout != torch.strided:
        return None
    storage = tensor.untyped_storage()
    if _StorageWeakRef is not None:
        return _StorageWeakRef(storage)
    try:
        return 0 if isinstance(tensor, FakeTensor) else storage.data_ptr()
    except RuntimeError:  # has no address either
        return 0


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Each op in the dtype of its arguments."""
    with contextlib.ExitStack() as stack:
        if _DisableAutocast is not None:
            stack.enter_context(_DisableAutocast())
        else:
            for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def switches_gradients(node: fx.Node) -> bool:
    """Whether the node switches gradients on or off."""
    return getattr(node.target, "__name__", "") in _SWITCHES


def switches_gradients_on(node: fx.Node) -> bool:
    """Whether it may switch them on; that a mode ends is told where it begins."""
    if not switches_gradients(node):
        return False
    off = _SWITCHES[node.target.__name__]  # type: ignore[union-attr]
    return node.args[:1] != (off,)
