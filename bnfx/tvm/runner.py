"""Runs what was built for the Relax VM, on arrays of NumPy or tensors of torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tvm
from tvm import relax


class Runner:
    """Calls a function of an executable.

    ``Runner(bnfx.tvm.build(mod, "llvm"))(x)``: what it is given decides what it returns, NumPy
    arrays or torch tensors; TVM's own tensors are given through as they are.

    Args:
        executable: of ``bnfx.tvm.build`` or ``tvm.compile``, or loaded from an exported library.
        device: a ``tvm.runtime.Device``; the CPU if ``None``.
        function: which of its functions.
    """

    def __init__(self, executable: Any, device: Any = None, function: str = "main") -> None:
        self._device = tvm.cpu() if device is None else device
        self._machine = relax.VirtualMachine(executable, self._device)
        self._call = self._machine[function]

    def __call__(self, *inputs: Any) -> Any:
        """The function's result: one array, or a tuple of what it returns."""
        torch = sys.modules.get("torch")
        back = _identity
        if torch is not None and any(isinstance(value, torch.Tensor) for value in inputs):
            back = torch.from_dlpack
        elif any(isinstance(value, np.ndarray) for value in inputs):
            back = _numpy
        return _mapped(self._call(*map(self._given, inputs)), back)

    def _given(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value).reshape(value.shape)  # it makes vectors of scalars
            return tvm.runtime.tensor(array, self._device)
        if hasattr(value, "detach"):
            return tvm.runtime.from_dlpack(value.detach().contiguous())
        return value


def _identity(value: Any) -> Any:
    return value


def _numpy(value: Any) -> Any:
    return value.numpy()


def _mapped(value: Any, function: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return function(value)
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return tuple(_mapped(value[index], function) for index in range(len(value)))
    return value
