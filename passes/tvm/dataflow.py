"""A function of either IR as a graph of values: in which order they run, and who reads whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from bnfx.passes.refusals import Code, Refusal

Expr = Any  # TVM has no type hints


class UnreadableFunctionError(Exception):
    """The function holds what has no place in a graph of values; it is left as it is."""

    def __init__(self, why: str, code: Code = Code.NESTED_GRAPH) -> None:
        super().__init__(why)
        self.refusal = Refusal(code, why)


class ValueForm(Enum):
    """What kind of an expression computes a value."""

    CALL = auto()
    CONSTANT = auto()
    VARIABLE = auto()
    COPY = auto()  # another name for a value
    TUPLE = auto()
    PART = auto()  # of a tuple
    NESTED = auto()  # a function, or branches, with bindings of their own
    OTHER = auto()


@dataclass(eq=False)
class Value(ABC):
    """One value of a function.

    Args:
        expr: what computes it; a parameter is the variable itself.
        args: the values that it reads, in order.
        readers: the values that read it, once for each time; what nobody needs is no reader.
    """

    expr: Expr
    args: list[Value] = field(repr=False)
    readers: list[Value] = field(default_factory=list, repr=False)

    @property
    @abstractmethod
    def op(self) -> str | None:
        """The name of the operator that is called, or ``None``."""

    @property
    @abstractmethod
    def kind(self) -> Any:
        """The inferred type, or ``None``."""

    @property
    @abstractmethod
    def form(self) -> ValueForm: ...

    @property
    @abstractmethod
    def name(self) -> str:
        """A variable's name, ``""`` for anything else."""

    @abstractmethod
    def array(self) -> Any:
        """A constant's numbers as a NumPy array, or ``None`` if it holds something else."""

    @property
    def attrs(self) -> Any:
        return self.expr.attrs

    @property
    def index(self) -> int:
        """Which part of a tuple it is."""
        return int(self.expr.index)


class Dataflow(ABC):
    """The values of one function or branch, each after what it reads.

    Attributes:
        values: all of them.
        result: what the function returns.
        pinned: those whose memory may be written to after they were computed.
        dead: those that nothing needs: neither the result nor what must run reads them.
    """

    values: Sequence[Value]
    result: Value
    pinned: Collection[Value]
    dead: Collection[Value]

    @abstractmethod
    def must_run(self, value: Value) -> bool:
        """Whether it stays although nobody reads it, for what it does."""

    def stand_together(self, values: Sequence[Value]) -> bool:
        """Whether whoever reads one of the values may read another."""
        return True

    def _forget_the_dead(self) -> None:
        """Find what nothing needs, and take it from the readers of what is needed."""
        needed = reached([self.result, *filter(self.must_run, self.values)])
        self.dead = {value for value in self.values if value not in needed}
        for value in needed if self.dead else ():
            value.readers = [reader for reader in value.readers if reader in needed]


def reached(roots: Iterable[Value]) -> set[Value]:
    """All that the roots depend on."""
    found: set[Value] = set()
    stack = list(roots)
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack += value.args
    return found


def numbers(values: Any) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    return tuple(int(value) for value in values)
