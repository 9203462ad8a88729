"""Elementwise functions of constants by TVM's names, computed by NumPy in the constants' dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": lambda one, other: one + other,
    "subtract": lambda one, other: one - other,
    "multiply": lambda one, other: one * other,
    "divide": lambda one, other: one / other,
    "power": lambda one, other: one**other,
    "negative": lambda value: -value,
    "sqrt": lambda value: np.sqrt(value),
    "rsqrt": lambda value: (1 / np.sqrt(value)).astype(value.dtype),
    "exp": lambda value: np.exp(value),
}
