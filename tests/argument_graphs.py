"""Graphs that take arguments of all kinds, and give their leaves; without a capture."""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.argument_checks import assert_constant
from bnfx.folding.capturing.asking.asked import Asked
from bnfx.folding.capturing.taken_arguments import Arguments

X, Y = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
NOTHING = Asked()


def graph_of(
    way: Callable[..., Any], *args: Any, asked: Asked = NOTHING, **kwargs: Any
) -> fx.GraphModule:
    """A graph that gives the leaves of its arguments, and asserts what it was made for."""
    bound = inspect.signature(way).bind(*args, **kwargs)
    bound.apply_defaults()
    graph = fx.Graph()
    leaves = Arguments(graph, bound).leaves()
    for node, name, value in leaves:
        if isinstance(value, torch.Tensor):
            asked.write(graph, node, name, value)
        else:
            assert_constant(graph, node, value, name)
    asked.write_identities(graph, leaves)
    asked.write_modes(graph, leaves)
    graph.output([node for node, _, _ in leaves])
    return fx.GraphModule(nn.Module(), graph)


def by_place(a: Any, b: Any) -> None: ...
def by_star(a: Any, *more: Any) -> None: ...
def by_place_only(a: Any, /, *more: Any, **b: Any) -> None: ...
def by_name(a: Any, *, b: Any) -> None: ...
def by_any_name(a: Any, **more: Any) -> None: ...
def by_all(a: Any, *b: Any, c: Any = None, **d: Any) -> None: ...
def with_default(a: Any, b: Any = 2, c: Any = 3) -> None: ...
def with_object(a: Any, b: Any = 2, c: Any = X) -> None: ...


Named = collections.namedtuple("Named", "one two")
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "places": (by_place, (X, Y), {}),
    "names": (by_place, (), {"b": X, "a": Y}),
    "no star": (by_star, (X,), {}),
    "stars": (by_star, (X, 1, Y), {}),
    "a list in a star": (by_star, (X, [1, Y]), {}),
    "a keyword as another name": (by_place_only, (X,), {"more": Y, "b": 3}),
    "by name only": (by_name, (X,), {"b": Y}),
    "any name": (by_any_name, (X,), {"p": Y, "more": 3}),
    "all": (by_all, (X, 1, 2), {"c": Y, "e": 5, "b": 6, "d": 7}),
    "defaults": (with_default, (X,), {}),
    "no defaults": (with_default, (X, 5), {"c": 7}),
    "a tuple": (by_place, ((X, (1, Y)), []), {}),
    "a named tuple": (by_place, (Named(X, Named(1, 2)), Named([Y], ())), {}),
    "a dict": (by_place, ({"q": X, "p": {"z": 1, "y": 2}}, {1: Y}), {}),
    "an ordered dict": (by_place, (collections.OrderedDict(q=X, p=1), Y), {}),
    "a default dict": (by_place, (collections.defaultdict(list, q=X, p=1), Y), {}),
    "a queue": (by_place, (X, {}), {}),
}
