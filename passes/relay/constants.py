"""What a function computes from constants alone: frontends write weights as ``transpose(const)``.

NumPy computes it, in the dtypes that the graph says. TVM's own FoldConstant would compile and run
each expression, which takes many times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relay

from bnfx.passes.algebra import Source
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relay.expressions import Dataflow, Expr, numbers, op_name, static, type_of
from bnfx.passes.tvm.constant_arrays import Arrays
from bnfx.passes.tvm.elementwise import FUNCTIONS, Array
from bnfx.passes.tvm.layouts import transform_order


def _expand_dims(attrs: Any, value: Array) -> Array:
    axis, count = int(attrs.axis), int(attrs.num_newaxis)
    axis += (value.ndim + 1) * (axis < 0)
    return value.reshape(*value.shape[:axis], *(1,) * count, *value.shape[axis:])


def _squeeze(attrs: Any, value: Array) -> Array:
    return np.squeeze(value, None if attrs.axis is None else numbers(attrs.axis))


def _transpose(attrs: Any, value: Array) -> Array:
    return np.transpose(value, numbers(attrs.axes) if attrs.axes else None)


def _layout_transform(attrs: Any, value: Array) -> Array | None:
    order = transform_order(str(attrs.src_layout), str(attrs.dst_layout))
    return None if order is None else np.transpose(value, order)


def _elementwise(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda attrs, *values: function(*values)


# Reshapes take their result's type as the shape, so none of their attributes need be read.
_RESHAPES = frozenset({"reshape", "nn.batch_flatten"})
_FUNCTIONS: dict[str, Callable[..., Array | None]] = {
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    "cast": lambda attrs, value: value.astype(str(attrs.dtype)),
    "copy": lambda attrs, value: value,
    **{name: _elementwise(function) for name, function in FUNCTIONS.items()},
}
_FILLED = {"zeros": np.zeros, "ones": np.ones}


class Constants:
    """The constant values of one function, and the sources that stand for them."""

    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._known: dict[Expr, bool] = {}
        self._values: dict[Expr, Array] = {}
        self._sources: dict[Expr, Source] = {}
        self.arrays = Arrays()

    def add(self, expr: Expr) -> bool:
        """Take note of ``expr`` if it is a constant; what it reads must have come before."""
        name = op_name(expr)
        known = isinstance(expr, relay.Constant) or name in _FILLED
        if name in _FUNCTIONS or name in _RESHAPES:
            known = all(self._known.get(child, False) for child in self._flow.children(expr))
        self._known[expr] = known and self._value_shape(expr) is not None
        return self._known[expr]

    def __contains__(self, expr: Expr) -> bool:
        return self._known.get(self._flow.resolve(expr), False)

    def value(self, expr: Expr) -> Array | None:
        """The numbers, computed once; ``None`` if that cannot be done."""
        expr = self._flow.resolve(expr)
        if expr not in self._values:
            value = self._compute(expr)
            if value is None:
                return None
            self._values[expr] = value
        return self._values[expr]

    def source(self, expr: Expr, name: str) -> Source | Refusal:
        """The source that stands for ``expr``, or why it is none; ``name`` if it has none yet."""
        expr = self._flow.resolve(expr)
        what = name.rpartition(".")[2]
        if not self._known.get(expr, False):
            given = f"the parameter {expr.name_hint}" if isinstance(expr, relay.Var) else "computed"
            return Refusal(Code.NOT_A_PARAMETER, f"its {what} is {given}, not a constant")
        if expr not in self._sources:
            value = self.value(expr)
            kind = "unknown" if value is None else str(value.dtype)
            source = self.arrays.source(value, kind, name)
            if isinstance(source, Refusal):
                return source
            self._sources[expr] = source
        return self._sources[expr]

    def _value_shape(self, expr: Expr) -> tuple[int, ...] | None:
        kind = type_of(expr)
        if not hasattr(kind, "shape"):
            return None
        sizes = [static(dim) for dim in kind.shape]
        return None if None in sizes else tuple(size for size in sizes if size is not None)

    def _compute(self, expr: Expr) -> Array | None:
        """Without recursion, whatever is computed from what."""
        stack = [expr]
        while stack:
            current = stack[-1]
            pending = [c for c in self._flow.children(current) if c not in self._values]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            if current not in self._values:
                value = self._step(current)
                if value is None:
                    return None
                self._values[current] = value
        return self._values[expr]

    def _step(self, expr: Expr) -> Array | None:
        shape, name = self._value_shape(expr), op_name(expr)
        if isinstance(expr, relay.Constant):
            value: Array | None = expr.data.numpy()
        elif name in _FILLED:
            assert shape is not None
            value = _FILLED[name](shape, str(type_of(expr).dtype))
        else:
            children = [self._values[child] for child in self._flow.children(expr)]
            with np.errstate(all="ignore"):  # what is not finite is refused later
                if name in _RESHAPES:
                    assert shape is not None
                    value = children[0].reshape(shape)
                else:
                    assert name is not None
                    try:
                        value = _FUNCTIONS[name](expr.attrs, *children)
                    except (TypeError, ValueError):  # no such arithmetic in NumPy
                        value = None
        if value is None or value.shape != shape or str(value.dtype) != type_of(expr).dtype:
            return None  # not what TVM computes, whatever it is
        return value
