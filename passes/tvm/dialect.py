"""What an IR calls things: the tables by which :mod:`bnfx.passes.tvm.lift` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bnfx.passes.algebra import LinearOperator, Source
from bnfx.passes.crossing import Dims, Movement
from bnfx.passes.graph import Node
from bnfx.passes.tvm.dataflow import Value
from bnfx.passes.tvm.weight_layouts import WeightLayout


@dataclass(frozen=True)
class Called:
    """A call of an op that affine maps may cross.

    Args:
        value: the call.
        known: the numbers of a constant operand by its position, ``None`` if it is none.
    """

    value: Value
    known: Callable[[int], Any]

    @property
    def attrs(self) -> Any:
        return self.value.attrs


@dataclass(frozen=True)
class Computation:
    """How NumPy computes a call from constants.

    Args:
        run: takes the call, the shape and dtype of its result, and the operands; gives an array, or
            ``None`` if it cannot.
        reads: which operands; the others are sizes, which the result's type says.
    """

    run: Callable[..., Any]
    reads: slice = field(default_factory=lambda: slice(None))


class Shapes(Protocol):
    """Names sizes that are not fixed, in one function."""

    def of(self, value: Value, kind: Any, inputs: Sequence[Node]) -> Dims | None:
        """The shape of ``value``, of the type ``kind``, that reads ``inputs``."""


MovementReader = Callable[[Called, Dims, Dims], Movement | None]
OperatorReader = Callable[[Value, Node, Source], tuple[LinearOperator, WeightLayout]]


@dataclass(frozen=True)
class Dialect:
    """The tables of an IR.

    Args:
        linear: ops with a weight as their second operand -> how they are read.
        movements: ops that affine maps may cross -> how they are read.
        computations: ops that are computed from constants -> how.
        biases: ops that may add a bias to the operator before them.
        concat: the op that joins a tuple.
        shapes: makes what names sizes.
        rank_of, dtype_of: of a type; ``None`` where it is no tensor's, or says nothing.
        sizes_of: the sizes of a tensor type, ``None`` for one that is not fixed, or for all.
    """

    linear: Mapping[str, OperatorReader]
    movements: Mapping[str, MovementReader]
    computations: Mapping[str, Computation]
    biases: frozenset[str]
    concat: str
    shapes: Callable[[], Shapes]
    rank_of: Callable[[Any], int | None]
    dtype_of: Callable[[Any], str | None]
    sizes_of: Callable[[Any], tuple[int | None, ...] | None]

    def fixed_shape(self, kind: Any) -> tuple[int, ...] | None:
        """The shape of a tensor type, where all of it is fixed."""
        sizes = self.sizes_of(kind)
        if sizes is None or None in sizes:
            return None
        return tuple(size for size in sizes if size is not None)
