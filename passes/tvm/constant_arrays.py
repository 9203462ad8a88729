"""What a function computes from constants alone, such as ``permute_dims(const)`` for a weight.

NumPy computes it, in the dtypes that the graph says. TVM's own FoldConstant would compile and run
each expression, which takes many times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bnfx.passes.algebra import Source
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.tvm.dataflow import Value, ValueForm
from bnfx.passes.tvm.dialect import Computation, Dialect
from bnfx.passes.values import Values

Array = npt.NDArray[Any]
# What NumPy computes with; a bfloat16 is none of its numbers.
NUMPY_FLOATS = frozenset({"float64", "float32", "float16"})


def _elementwise(function: Callable[..., Array]) -> Computation:
    return Computation(lambda value, shape, dtype, *operands: function(*operands))


def _reshape(value: Value, shape: Any, dtype: str, operand: Array) -> Array:
    return np.reshape(operand, shape)


def _cast(value: Value, shape: Any, dtype: str, operand: Array) -> Array | None:
    return operand.astype(dtype) if dtype in NUMPY_FLOATS else None


ELEMENTWISE = {
    "add": _elementwise(lambda one, other: one + other),
    "subtract": _elementwise(lambda one, other: one - other),
    "multiply": _elementwise(lambda one, other: one * other),
    "divide": _elementwise(lambda one, other: one / other),
    "power": _elementwise(lambda one, other: one**other),
    "negative": _elementwise(lambda one: -one),
    "sqrt": _elementwise(np.sqrt),
    "rsqrt": _elementwise(lambda one: (1 / np.sqrt(one)).astype(one.dtype)),
    "exp": _elementwise(np.exp),
}
# It takes its result's type as the shape, so none of its attributes need be read.
RESHAPE = Computation(_reshape, slice(0, 1))
CAST = Computation(_cast, slice(0, 1))
FILLED = {
    "zeros": Computation(lambda value, shape, dtype: np.zeros(shape, dtype), slice(0, 0)),
    "ones": Computation(lambda value, shape, dtype: np.ones(shape, dtype), slice(0, 0)),
}


def _why_not(dtype: str) -> str:
    if dtype in NUMPY_FLOATS:
        return "and NumPy cannot compute it"
    if "float" in dtype:
        return "in which NumPy computes nothing: cast the model to float32 before it is imported"
    return "not real"


class Constants:
    """The constant values of one function, and the sources that stand for them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._stored: dict[Value, int] = {}  # elements of the constants that it is computed from
        self._values: dict[Value, Array | None] = {}
        self._sources: dict[Value, Source] = {}
        self._named: dict[str, Array] = {}

    def add(self, value: Value) -> bool:
        """Take note of ``value`` if it is a constant; what it reads must have come before."""
        shape = self._dialect.fixed_shape(value.kind)
        if shape is None:
            return False
        if value.form is ValueForm.CONSTANT:
            self._stored[value] = math.prod(shape)
            return True
        read = self._read(value)
        if read is None or any(arg not in self._stored for arg in read):
            return False
        self._stored[value] = sum(self._stored[arg] for arg in read)
        return True

    def __contains__(self, value: Value) -> bool:
        return value in self._stored

    def value(self, value: Value) -> Array | None:
        """The numbers, computed once; ``None`` if that cannot be done."""
        if value not in self._stored:
            return None
        stack = [value]  # no recursion, however much is computed from what
        while stack:
            current = stack[-1]
            pending = [child for child in self._read(current) or () if child not in self._values]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            if current not in self._values:
                self._values[current] = self._step(current)
        return self._values[value]

    def literal(self, value: Value) -> Array | None:
        """The numbers if a constant in the place of the computation would take no more memory."""
        if value.form is ValueForm.CONSTANT:
            return None
        array = self.value(value)
        return array if array is not None and array.size <= self._stored[value] else None

    def source(self, value: Value, name: str) -> Source | Refusal:
        """The source that stands for ``value``, or why it is none.

        Args:
            name: of the source if it has none yet, by whose last part a refusal calls it.
        """
        what = name.rpartition(".")[2]
        if value not in self._stored:
            given = f"the parameter {value.name}" if value.name else "computed"
            return Refusal(Code.NOT_A_PARAMETER, f"its {what} is {given}, not a constant")
        if value not in self._sources:
            array = self.value(value)
            if array is None or str(array.dtype) not in NUMPY_FLOATS:
                kind = self._dialect.dtype_of(value.kind) or "unknown"
                return Refusal(Code.UNSUPPORTED_DTYPE, f"its {what} is {kind}, {_why_not(kind)}")
            unique = name if name not in self._named else f"{name} ({len(self._named)})"
            self._named[unique] = array
            self._sources[value] = Source(unique, array.shape, str(array.dtype))
        return self._sources[value]

    def numbers(self) -> Values:
        """The numbers behind the sources; without any, those of maps like ``-x`` alone."""
        return Values(lambda source: self._named[source.name], np.zeros((), "float64"))

    def _read(self, value: Value) -> list[Value] | None:
        """The values whose elements it reads, ``None`` if it is no function of constants."""
        if value.form is ValueForm.COPY:
            return value.args
        known = self._dialect.computations.get(value.op or "")
        return None if known is None else value.args[known.reads]

    def _step(self, value: Value) -> Array | None:
        shape, dtype = self._dialect.fixed_shape(value.kind), self._dialect.dtype_of(value.kind)
        if value.form is ValueForm.CONSTANT:
            result = value.array()
        else:
            result = self._computed(value, shape, dtype)
        if result is None or result.shape != shape or str(result.dtype) != dtype:
            return None  # not what TVM computes, whatever it is
        return np.asarray(result)

    def _computed(self, value: Value, shape: Any, dtype: str | None) -> Any:
        operands = [self._values[child] for child in self._read(value) or ()]
        if any(operand is None for operand in operands):
            return None
        if value.form is ValueForm.COPY:
            return operands[0]
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused later
                return self._dialect.computations[value.op or ""].run(
                    value, shape, dtype, *operands
                )
        except (TypeError, ValueError):  # no such arithmetic in NumPy
            return None
