"""The arguments of a captured graph: the model's own signature, and what was passed for it.

The graph asserts how containers are built, those without a tensor in them too: a model may ask
whether ``"mask" in batch``, or how long a list is.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import (
    WRITTEN,
    assert_class,
    assert_keys,
    is_container,
    is_written,
    say,
)
from bnfx.folding.given import WAY_OUT

_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
# Those by position alone, and the stars, leave their names to others: `f(1, a=2)`.
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_HIDING = ("torch", "repr", "slice")
_Path = tuple[Any, ...]  # the name of a parameter, then keys into what it holds


class Arguments:
    """Placeholders of the model's own signature, and the leaves of what they hold."""

    def __init__(self, graph: fx.Graph, bound: inspect.BoundArguments) -> None:
        self._graph = graph
        self._nodes: dict[_Path, fx.Node] = {}
        optional = False
        for name, parameter in bound.signature.parameters.items():
            stars = _STARS.get(parameter.kind, "")
            default: tuple[Any, ...] = ()
            if is_written(parameter.default):
                default, optional = (parameter.default,), True
            elif optional and not stars:
                default = (None,)
            self._nodes[name,] = graph.create_node(
                "placeholder", f"{stars}{name}", default, name=name
            )
        self._bound = bound

    def leaves(self) -> list[tuple[fx.Node, str, Any]]:
        """Node, name and value of each leaf, in the order of ``torch.export``."""
        found: dict[_Path, tuple[fx.Node, str, Any]] = {}
        for name, held in self._bound.arguments.items():
            self._take_apart((name,), held, found)
        given = (self._bound.args, self._bound.kwargs)
        return [found[self._where(path)] for path, _ in pytree.tree_flatten_with_path(given)[0]]

    def _take_apart(
        self, where: _Path, held: Any, found: dict[_Path, tuple[fx.Node, str, Any]]
    ) -> None:
        node, name = self._nodes[where], named(where)
        if not is_container(held):
            found[where] = node, name, held
            return
        self._assert_built_so(node, name, held)
        for key, value in held.items() if isinstance(held, dict) else enumerate(held):
            inside = (*where, key)
            self._nodes[inside] = self._graph.call_function(operator.getitem, (node, key))
            self._take_apart(inside, value, found)

    def _where(self, path: tuple[Any, ...]) -> _Path:
        """Where a leaf of ``(args, kwargs)`` is."""
        parameters = list(self._bound.signature.parameters.values())
        first: _Path
        if path[0].idx == 1:
            name = path[1].key
            known = any(p.name == name and p.kind in _BY_NAME for p in parameters)
            first = (name,) if known else (parameters[-1].name, name)
        else:
            place = path[1].idx
            stars = (i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL)
            star = next(stars, place + 1)
            first = (
                (parameters[star].name, place - star)
                if place >= star
                else (parameters[place].name,)
            )
        held = self._bound.arguments[first[0]]
        for key in first[1:]:
            held = held[key]
        for entry in path[2:]:
            first = (*first, _key(entry, held))
            held = held[first[-1]]
        return first

    def _assert_built_so(self, node: fx.Node, name: str, held: Any) -> None:
        """Assert the class, and the keys of a dict and their order, or the length of a sequence."""
        assert_class(self._graph, node, held, name)
        if isinstance(held, dict):
            assert_keys(self._graph, node, list(held), name)
        else:
            # By a slice, for the same reason: tracing knows no lengths.
            rest = self._graph.call_function(operator.getitem, (node, slice(len(held), None)))
            empty: Any = [] if isinstance(held, list) else ()
            none_left = self._graph.call_function(operator.eq, (rest, empty))
            say(self._graph, none_left, f"{name} of length {len(held)}")


def _key(entry: Any, held: Any) -> Any:
    if isinstance(entry, pytree.GetAttrKey):  # of a named tuple
        return held._fields.index(entry.name)
    return entry.key if isinstance(entry, pytree.MappingKey) else entry.idx


def named(where: _Path) -> str:
    """An argument, or a part of one, as code would write it."""
    return str(where[0]) + "".join(f"[{key!r}]" for key in where[1:])


def check_arguments(kind: str, bound: inspect.BoundArguments, given: Collection[str]) -> None:
    """Refuse arguments that no graph takes.

    Args:
        kind: the model's class.
        bound: with defaults.
        given: the names of those that were passed.

    Raises:
        CaptureError: naming the first of them.
    """
    for name, parameter in bound.signature.parameters.items():
        if name in _HIDING:
            raise CaptureError(
                f"forward of {kind} has an argument {name}, which would hide what the code of a "
                f"graph calls by that name: rename it. {WAY_OUT}"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY and not any(
            p.kind is p.VAR_POSITIONAL for p in bound.signature.parameters.values()
        ):
            raise CaptureError(
                f"forward of {kind} takes {name} by position only (before a /), which "
                f"torch.export cannot capture. {WAY_OUT}"
            )
        if name not in given:
            default = bound.arguments[name]
            if not is_written(default):
                raise CaptureError(
                    f"forward of {kind} has a {type(default).__name__} as default of {name}, which "
                    f"no graph can hold: pass {name} among the example inputs. {WAY_OUT}"
                )
    for name, held in bound.arguments.items():
        for where, leaf in _leaves((name,), held):
            if not isinstance(leaf, (torch.Tensor, *WRITTEN)):
                raise CaptureError(
                    f"{named(where)} is of type {type(leaf).__name__}; a graph takes tensors, "
                    f"numbers, text, dtypes, devices, enums, and tuples, lists and dicts of those. "
                    f"{WAY_OUT}"
                )


def check_answer(kind: str, answer: Any) -> None:
    """Refuse answers that a graph would give otherwise.

    Raises:
        CaptureError: naming what it is.
    """
    stack = [answer]
    while stack:
        value = stack.pop()
        if isinstance(value, (np.ndarray, np.generic, torch.Size)):
            raise CaptureError(
                f"forward of {kind} gives a {type(value).__name__}, which a graph gives as a "
                f"tensor or tuple: give that. {WAY_OUT}"
            )
        if isinstance(value, (list, tuple)):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()


def _leaves(where: _Path, held: Any) -> Iterator[tuple[_Path, Any]]:
    if not is_container(held):
        yield where, held
        return
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        yield from _leaves((*where, key), value)
