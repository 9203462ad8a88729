"""Runs what was built for the Relax VM, on arrays of NumPy or tensors of torch."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import tvm
from tvm import relax

_ALIGNMENT = 64  # bytes, which TVM's code takes for granted


class Runner:
    """Calls a function of an executable.

    ``Runner(bnfx.tvm.build(mod, "llvm"))(x)``: what it is given decides what it returns, NumPy
    arrays or torch tensors; TVM's own tensors are given through as they are.

    Args:
        executable: of ``bnfx.tvm.build`` or ``tvm.compile``, or loaded from an exported library.
        device: a ``tvm.runtime.Device``; the CPU if ``None``.
        function: which of its functions.
        owned: whether tensors of torch that it returns are copies. What TVM returns may be an
            input, one of the module's constants, or another output over again.
    """

    def __init__(
        self, executable: Any, device: Any = None, function: str = "main", owned: bool = True
    ) -> None:
        self._device = tvm.cpu() if device is None else device
        self._machine = relax.VirtualMachine(executable, self._device)
        self._call = self._machine[function]
        self._owned = owned
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """The function's result: one array, or a tuple of what it returns."""
        torch = sys.modules.get("torch")
        back = _identity
        if torch is not None and any(isinstance(value, torch.Tensor) for value in inputs):
            back = _copied if self._owned else torch.from_dlpack
        elif any(isinstance(value, np.ndarray) for value in inputs):
            back = _numpy
        given = [self._given(value) for value in inputs]
        with self._lock:  # a machine has one stack
            result = self._call(*given)
        return _mapped(result, back)

    def _given(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value).reshape(value.shape)  # it makes vectors of scalars
            return tvm.runtime.tensor(array, self._device)
        if hasattr(value, "detach"):
            value = value.detach().resolve_neg().contiguous()
            if value.data_ptr() % _ALIGNMENT:  # a part of another tensor
                value = value.clone()
            return tvm.runtime.from_dlpack(value)
        return value


def _identity(value: Any) -> Any:
    return value


def _copied(value: Any) -> Any:
    return sys.modules["torch"].from_dlpack(value).clone()


def _numpy(value: Any) -> Any:
    return value.numpy()


def _mapped(value: Any, function: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return function(value)
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return tuple(_mapped(value[index], function) for index in range(len(value)))
    return value
