"""Which arguments and answers a graph takes; and its checks, taken out and put back."""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from argument_graphs import (
    CALLS,
    X,
    Y,
    by_any_name,
    by_place,
    by_star,
    graph_of,
    with_object,
)

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import without_checks, write_checks
from bnfx.folding.capturing.asking.asked import Asked
from bnfx.folding.capturing.taken_arguments import check_answer, check_arguments

WHOLE = torch.ones(2, dtype=torch.int32)


class Listed(list[Any]): ...


REFUSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = {
    "torch": (lambda torch: None, (X,), {}, "an argument torch, which would hide"),
    "repr": (lambda x, repr=1: None, (X,), {}, "an argument repr"),
    "slice": (lambda *slice: None, (X,), {}, "an argument slice"),
    "by place only": (lambda x, /: None, (X,), {}, "takes x by position only"),
    "a tensor by default": (with_object, (X,), {}, "a Tensor as default of c"),
    "an object": (by_place, (X, object()), {}, "b is of type object"),
    "in a list": (by_place, (X, [1, {"k": {1}}]), {}, r"b\[1\]\['k'\] is of type set"),
    "by any name": (by_any_name, (X,), {"k": object()}, r"more\['k'\] is of type object"),
    "a queue": (by_place, (X, collections.deque([1])), {}, "b is of type deque"),
    "a list of one's own": (by_place, (X, Listed([1])), {}, "b is of type Listed"),
    "in a star": (by_star, (X, 1, object()), {}, r"more\[1\] is of type object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_no_graph_takes_are_named(name: str) -> None:
    way, args, kwargs, says = REFUSED[name]
    bound = inspect.signature(way).bind(*args, **kwargs)
    given = frozenset(bound.arguments)
    bound.apply_defaults()
    with pytest.raises(CaptureError, match=f"^(forward of Net)?.*{says}"):
        check_arguments("Net", bound, given)


TAKEN = [*CALLS.values(), (with_object, (X, 2, Y), {}), (with_object, (X,), {"c": 1})]
TAKEN += [(lambda x, /, *more: None, (X, 1), {})]
TAKEN += [(by_place, (torch.float32, [None, 1j, "a", True, torch.device("cpu")]), {})]


@pytest.mark.parametrize(("way", "args", "kwargs"), TAKEN)
def test_others_are_taken(way: Callable[..., Any], args: Any, kwargs: Any) -> None:
    bound = inspect.signature(way).bind(*args, **kwargs)
    given = frozenset(bound.arguments)
    bound.apply_defaults()
    check_arguments("Net", bound, given)


@pytest.mark.parametrize("answer", [X.shape, X.numpy(), X.numpy().sum(), [1, {"a": (X.shape,)}]])
def test_answers_that_a_graph_gives_otherwise_are_named(answer: Any) -> None:
    with pytest.raises(CaptureError, match="forward of Net gives a "):
        check_answer("Net", answer)
    check_answer("Net", [X, {"a": (1, None)}])


def test_checks_are_written_again_into_what_was_rewritten() -> None:
    asked = Asked(dtypes=True, identities=True)
    whole = graph_of(by_star, [X, Y], {"k": WHOLE}, asked=asked)
    checked = [node.name for node in whole.graph.nodes if node.target is torch._assert]
    bare, checks = without_checks(whole)
    assert not [node for node in bare.graph.nodes if node.target in (torch._assert, repr)]
    assert [
        each for one, each in zip(bare([X, Y], {"k": Y}), [X, Y, Y], strict=True) if one is not each
    ] == []
    write_checks(bare, checks)
    assert [node.name for node in bare.graph.nodes if node.target is torch._assert] == checked
    bare.graph.lint()
    assert bare([X, Y], {"k": WHOLE})[2] is WHOLE
    for other in (([X, X], {"k": WHOLE}), ([X, Y], {"k": Y}), ([X, Y], {"j": WHOLE})):
        with pytest.raises((AssertionError, KeyError)):
            bare(*other)


CONSTANTS = [(1, True), (True, 1), (True, False), (0.0, -0.0), (1, 1.0), (None, 0), (0, None)]
CONSTANTS += [("a", "b"), (1j, 2j), (torch.float32, torch.float64), (None, X)]


@pytest.mark.parametrize(("constant", "other"), CONSTANTS)
def test_constants_are_those_of_the_example(constant: Any, other: Any) -> None:
    graph = graph_of(by_star, constant)
    assert graph(constant) == [constant]
    with pytest.raises(AssertionError, match=f"folded for a={constant!r}"):
        graph(other)
