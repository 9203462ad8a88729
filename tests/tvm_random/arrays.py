"""What TVM's ops compute, in NumPy, by their names in both IRs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


def _taps(x: Array, size: Any, strides: Any, pads: Any, dilation: Any, fill: float) -> Any:
    """The input that each tap of a window meets: ``x`` is (N, C, *spatial)."""
    n = len(size)
    widths = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
    padded = np.pad(x, widths, constant_values=fill)
    outs = [
        (padded.shape[2 + i] - dilation[i] * (size[i] - 1) - 1) // strides[i] + 1 for i in range(n)
    ]
    for tap in itertools.product(*map(range, size)):
        at = [
            slice(tap[i] * dilation[i], tap[i] * dilation[i] + strides[i] * outs[i], strides[i])
            for i in range(n)
        ]
        yield tap, padded[(slice(None), slice(None), *at)]


def _first(x: Array, layout: str) -> Array:
    return np.moveaxis(x, layout.index("C"), 1)


def _conv(attrs: Any, x: Array, weight: Array) -> Array:
    layout = str(attrs.data_layout)
    data = _first(x, layout)
    kernel_layout, axes = str(attrs.kernel_layout), _SPATIAL[data.ndim - 2]
    w = np.transpose(weight, [kernel_layout.index(letter) for letter in "OI" + axes])
    groups, inside = int(attrs.groups), data.shape[1] // int(attrs.groups)
    if w.shape[1] != inside:  # TVM's depthwise form: (channels, multiplier)
        w = w.reshape(-1, inside, *w.shape[2:])
    pads, strides = _ints(attrs.padding), _ints(attrs.strides)
    result: Array = 0.0
    for tap, part in _taps(data, w.shape[2:], strides, pads, _ints(attrs.dilation), 0.0):
        split = part.reshape(part.shape[0], groups, inside, *part.shape[2:])
        taps = w[(slice(None), slice(None), *tap)].reshape(groups, -1, inside)
        one = np.einsum("ngi...,goi->ngo...", split, taps)
        result = result + one.reshape(one.shape[0], -1, *one.shape[3:])
    return np.moveaxis(result, 1, layout.index("C")).copy()


def _pool(by_order: bool) -> Callable[..., Array]:
    def run(attrs: Any, x: Array) -> Array:
        layout = str(attrs.layout)
        data, size = _first(x, layout), _ints(attrs.pool_size)
        where = (size, _ints(attrs.strides), _ints(attrs.padding), _ints(attrs.dilation))
        parts = np.stack([p for _, p in _taps(data, *where, -np.inf if by_order else 0.0)])
        if by_order:
            result = parts.max(0)
        else:
            ones = np.ones_like(data)
            pads = 1.0 if bool(attrs.count_include_pad) else 0.0
            result = parts.sum(0) / sum(p for _, p in _taps(ones, *where, pads))
        return np.moveaxis(result, 1, layout.index("C")).copy()

    return run


def batch_norm(attrs: Any, x: Array, *statistics: Array) -> tuple[Array, Array, Array]:
    """As in inference: the statistics are handed on."""
    axis = int(attrs.axis) % x.ndim
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    gamma, beta, mean, var = (one.reshape(shape) for one in statistics)
    y = (x - mean) / np.sqrt(var + float(attrs.epsilon))
    y = y * gamma if attrs.scale else y
    return (y + beta if attrs.center else y), statistics[2], statistics[3]


def pad(x: Array, sides: Any, mode: str, fill: float) -> Array:
    if mode == "constant":
        return np.pad(x, sides, constant_values=fill)
    return np.pad(x, sides, mode={"replicate": "edge"}.get(mode, mode))  # type: ignore[call-overload]


def _matmul(attrs: Any, x: Array, y: Array) -> Array:
    """Relay's, in which either may be transposed."""
    x = np.swapaxes(x, -1, -2) if attrs.transpose_a else x
    return x @ (np.swapaxes(y, -1, -2) if attrs.transpose_b else y)


def _bias_add(attrs: Any, x: Array, bias: Array) -> Array:
    axis = int(attrs.axis) % x.ndim
    return x + bias.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _transpose(attrs: Any, x: Array) -> Array:
    return np.transpose(x, _ints(attrs.axes) if attrs.axes else None).copy()


def _mean(attrs: Any, x: Array) -> Array:
    return x.mean(tuple(_ints(attrs.axis)), keepdims=bool(attrs.keepdims))


OPS: dict[str, Callable[..., Array]] = {
    **{f"nn.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"nn.max_pool{n}d": _pool(True) for n in (1, 2, 3)},
    **{f"nn.avg_pool{n}d": _pool(False) for n in (1, 2, 3)},
    "nn.batch_norm": batch_norm,
    "nn.bias_add": _bias_add,
    "nn.relu": lambda attrs, x: np.maximum(x, 0),
    "sigmoid": lambda attrs, x: np.exp(-np.logaddexp(0, -x)),
    "negative": lambda attrs, x: -x,
    "sqrt": lambda attrs, x: np.sqrt(x),
    "maximum": lambda attrs, x, y: np.maximum(x, y),
    "add": lambda attrs, x, y: x + y,
    "subtract": lambda attrs, x, y: x - y,
    "multiply": lambda attrs, x, y: x * y,
    "divide": lambda attrs, x, y: x / y,
    "matmul": lambda attrs, x, y: x @ y,
    "nn.matmul": _matmul,
    "nn.batch_matmul": _matmul,
    "nn.dense": lambda attrs, x, y: x @ y.T,
    "permute_dims": _transpose,
    "transpose": _transpose,
    "repeat": lambda attrs, x: np.repeat(x, int(attrs.repeats), int(attrs.axis)),
    "mean": _mean,
}
