"""What a value in the code that Dynamo wrote is, before it is known what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Given:
    """A variable that is looked up at each call, and attributes and items from there.

    Args:
        name: of the variable.
        steps: ``(is an item, name or key)``.
        names: where a global variable stands; ``None`` for one of the call's own.
    """

    name: str
    steps: tuple[tuple[bool, Any], ...] = ()
    names: Mapping[str, Any] | None = None

    def of(self, scope: Mapping[str, Any]) -> Any:
        value = (scope if self.names is None else self.names)[self.name]
        for is_item, key in self.steps:
            value = value[key] if is_item else getattr(value, key)
        return value

    @property
    def shown(self) -> str:
        return ".".join([self.name, *(str(key) for _, key in self.steps)])

    def then(self, is_item: bool, key: Any) -> Given:
        return Given(self.name, (*self.steps, (is_item, key)), self.names)


@dataclass(frozen=True)
class Own:
    """What a path from the model leads to, and stays as long as nothing is assigned."""

    value: Any
    path: Given


@dataclass(frozen=True)
class Output:
    """One of the outputs of the graph; ``None``: all of them, as it gave them."""

    at: int | None


@dataclass(frozen=True)
class Constant:
    value: Any


@dataclass(frozen=True)
class Size:
    """A size of a tensor, or a number as a tensor: what a function without effects says of it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def of(self, scope: Mapping[str, Any]) -> Any:
        return self.function(*(value_of(each, scope) for each in self.arguments))


def value_of(symbol: Any, scope: Mapping[str, Any]) -> Any:
    """What a symbol that goes into the graph stands for in a call."""
    return symbol.of(scope) if isinstance(symbol, Given | Size) else symbol.value
