"""Shapes of recurrent layers at any length of a sequence.

To find the shape of what ``torch.lstm`` returns, torch takes it apart step by step, which makes the
length that of the example. Its shape does not depend on how many steps there are.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_asked = contextvars.ContextVar("bnfx_recurrent_shapes", default=False)
_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_KEYS = (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd)


@contextmanager
def recurrent_shapes() -> Iterator[None]:
    """While this holds, a recurrent layer on fake tensors of this thread gives shapes alone."""
    for name in _NAMES:
        _replace(getattr(torch.ops.aten, name).input)
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def _replace(op: Any) -> None:
    """Put ours before the kernels of an op, for good: others get what they always got."""
    kernels = getattr(op, "py_kernels", {})
    for key in _KEYS:
        kernel = kernels.get(key)
        if kernel is not None and not hasattr(kernel, "bnfx_original"):
            kernels[key] = _ours(kernel)
            op._dispatch_cache.clear()


def _ours(original: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(
        input: Any,
        hx: Any,
        params: Any,
        has_biases: Any,
        num_layers: Any,
        dropout: Any,
        train: Any,
        bidirectional: Any,
        batch_first: Any,
    ) -> Any:
        if not _asked.get():
            return original(
                input,
                hx,
                params,
                has_biases,
                num_layers,
                dropout,
                train,
                bidirectional,
                batch_first,
            )
        states = hx if isinstance(hx, (list, tuple)) else (hx,)
        width = states[0].shape[-1] * (2 if bidirectional else 1)
        out = input.new_empty((*input.shape[:-1], width))
        return (out, *map(torch.empty_like, states))

    kernel.bnfx_original = original  # type: ignore[attr-defined]
    return kernel
