"""What a function computes from constants alone, such as ``permute_dims(const)`` for a weight.

NumPy computes it, in the dtypes that the graph says. TVM's own FoldConstant would compile and run
each expression, which takes many times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from bnfx.passes.algebra import Source
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relax.compat import Constant, TensorType, data_of, name_of
from bnfx.passes.relax.expressions import Value, numbers
from bnfx.passes.relax.shapes import Shapes, dtype_of
from bnfx.passes.tvm.constant_arrays import NUMPY_FLOATS, Arrays
from bnfx.passes.tvm.elementwise import FUNCTIONS, Array

# These take their result's type as the shape, so none of their attributes need be read.
_RESHAPES = frozenset({"reshape", "flatten", "nn.batch_flatten", "squeeze", "expand_dims"})
_FILLED: dict[str, Callable[..., Array]] = {
    "zeros": lambda shape, dtype: np.zeros(shape, dtype),
    "ones": lambda shape, dtype: np.ones(shape, dtype),
    "full": lambda shape, dtype, fill: np.full(shape, fill, dtype),
    "broadcast_to": lambda shape, dtype, value: np.broadcast_to(value, shape),
}


class Constants:
    """The constant values of one function, and the sources that stand for them."""

    def __init__(self) -> None:
        self._known: set[Value] = set()
        self._stored: dict[Value, int] = {}  # elements of the constants that it is computed from
        self._values: dict[Value, Array | None] = {}
        self._sources: dict[Value, Source] = {}
        self.arrays = Arrays()

    def add(self, value: Value) -> bool:
        """Take note of ``value`` if it is a constant; what it reads must have come before."""
        shape = Shapes().of(value.kind) if isinstance(value.kind, TensorType) else None
        if shape is None or not all(isinstance(size, int) for size in shape) or value.is_cast:
            return False
        read = _read(value)
        computed = read is not None and all(arg in self._known for arg in read)
        if isinstance(value.expr, Constant) or computed:
            self._known.add(value)
            sizes = [int(size) for size in shape]
            own = math.prod(sizes) if isinstance(value.expr, Constant) else 0
            self._stored[value] = own + sum(self._stored[arg] for arg in read or ())
        return value in self._known

    def __contains__(self, value: Value) -> bool:
        return value in self._known

    def value(self, value: Value) -> Array | None:
        """The numbers, computed once; ``None`` if that cannot be done."""
        stack = [value]  # no recursion, however much is computed from what
        while stack:
            current = stack[-1]
            pending = [child for child in _read(current) or () if child not in self._values]
            if pending and current not in self._values:
                stack.extend(pending)
                continue
            stack.pop()
            if current not in self._values:
                self._values[current] = self._step(current)
        return self._values[value]

    def literal(self, value: Value) -> Array | None:
        """The numbers if a constant in the place of the computation would take no more memory."""
        if value not in self._known or isinstance(value.expr, Constant):
            return None
        array = self.value(value)
        return array if array is not None and array.size <= self._stored[value] else None

    def source(self, value: Value, name: str) -> Source | Refusal:
        """The source that stands for ``value``, or why it is none; ``name`` if it has none yet."""
        what = name.rpartition(".")[2]
        if value not in self._known:
            given = "computed"
            if value.binding is None and isinstance(value.expr, relax.Var):
                given = f"the parameter {name_of(value.expr)}"
            return Refusal(Code.NOT_A_PARAMETER, f"its {what} is {given}, not a constant")
        if value not in self._sources:
            kind = dtype_of(value.kind) or "unknown"
            source = self.arrays.source(self.value(value), kind, name)
            if isinstance(source, Refusal):
                return source
            self._sources[value] = source
        return self._sources[value]

    def _step(self, value: Value) -> Any:
        shape = Shapes().of(value.kind)
        dtype = dtype_of(value.kind)
        if isinstance(value.expr, Constant):
            result = data_of(value.expr)
        else:
            children = [self._values[child] for child in _read(value) or ()]
            if any(child is None for child in children):
                return None
            with np.errstate(all="ignore"):  # what is not finite is refused later
                result = _compute(value, shape, dtype, children)
        if result is None or result.shape != shape or str(result.dtype) != dtype:
            return None  # not what TVM computes, whatever it is
        return result


def _read(value: Value) -> list[Value] | None:
    """The values whose elements it reads, ``None`` if it is no function of constants."""
    name = value.op
    if name is None:
        return value.args if isinstance(value.expr, relax.Var) and value.binding else None
    if name in FUNCTIONS:
        return value.args
    if name in _RESHAPES or name in ("permute_dims", "astype"):
        return value.args[:1]
    if name == "full":
        return value.args[1:]
    if name == "broadcast_to":
        return value.args[:1]
    return [] if name in ("zeros", "ones") else None


def _compute(value: Value, shape: Any, dtype: str | None, children: list[Any]) -> Any:
    name = value.op
    if name is None:
        return children[0]
    if name in FUNCTIONS:
        return FUNCTIONS[name](*children)
    if name in _RESHAPES:
        fits = math.prod(shape) == children[0].size
        return children[0].reshape(shape) if fits else None
    if name == "permute_dims":
        axes = value.attrs.axes
        return np.transpose(children[0], None if axes is None else numbers(axes))
    if name == "astype":
        return children[0].astype(dtype) if dtype in NUMPY_FLOATS else None
    return _FILLED[name](shape, dtype, *children)
