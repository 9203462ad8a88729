"""The arguments of a graph: which it takes, and what it says of others; without a capture."""

from __future__ import annotations

import collections
import inspect
import operator
import pickle
from typing import Any

import pytest
import torch
from argument_graphs import (
    CALLS,
    NOTHING,
    Named,
    X,
    Y,
    by_place,
    by_star,
    graph_of,
    with_default,
    with_object,
)
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.folding.capturing.asking.asked import Asked

WIDE = X.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CALLS)
def test_leaves_are_those_of_torch_export(name: str) -> None:
    way, args, kwargs = CALLS[name]
    graph = graph_of(way, *args, **kwargs)
    bound = inspect.signature(way).bind(*args, **kwargs)
    bound.apply_defaults()
    expected = pytree.tree_leaves((bound.args, bound.kwargs))
    found = graph(*args, **kwargs)
    assert len(found) == len(expected)
    assert all(one is other or one == other for one, other in zip(found, expected, strict=True))
    assert list(inspect.signature(graph.forward).parameters) == list(bound.signature.parameters)


def test_a_default_that_no_code_can_hold_is_to_be_passed() -> None:
    graph = graph_of(with_object, X, 2, Y)
    assert graph(X, 2, Y)[2] is Y
    assert inspect.signature(graph.forward).parameters["c"].default is None
    assert graph_of(with_default, X)(X)[1:] == [2, 3]


OTHERS: dict[str, tuple[Any, Any, str]] = {
    "longer": ([X], [X, Y], "a of length 1"),
    "shorter": ((X, Y), (X,), "index out of range"),
    "empty": ([], [X], "a of length 0"),
    "no list": ([X], (X,), "a of the class list"),
    "no tuple": ((X, Y), Named(X, Y), "a of the class tuple"),
    "inside": ([[X]], [[X, Y]], r"a\[0\] of length 1"),
    "inside a dict": ({"k": [X]}, {"k": [X, Y]}, r"a\['k'\] of length 1"),
    "keys": ({"p": X}, {"q": X}, r"a with the keys \['p'\]"),
    "more keys": ({"p": X}, {"p": X, "q": Y}, "keys"),
    "order": ({"p": X, "q": Y}, {"q": Y, "p": X}, "in this order"),
    "no dict": ({"p": X}, collections.OrderedDict(p=X), "a of the class dict"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_containers_that_are_built_otherwise_are_named(name: str) -> None:
    example, other, says = OTHERS[name]
    graph = graph_of(by_star, example)
    assert len(graph(example)) == len(pytree.tree_leaves(example))
    with pytest.raises((AssertionError, LookupError), match=says):
        graph(other)


def own_class() -> torch.Tensor:
    return X.as_subclass(type("Own", (torch.Tensor,), {}))


def marked() -> torch.Tensor:
    x: Any = X.clone()
    x.mask = 2
    return x


WHOLE = torch.ones(2, dtype=torch.int32)
WIDER = torch.ones(1, 3, 2, 4, 4).contiguous(memory_format=torch.channels_last_3d)
THREE_D = torch.ones(1, 3, 2, 4, 4)
TURNED = X.transpose(1, 3)
P = nn.Parameter(X.clone(), requires_grad=False)
ASKS: dict[str, tuple[Asked, Any, list[Any], list[tuple[Any, str]]]] = {
    "nothing": (
        NOTHING,
        X,
        [X.double(), WIDE, P, X[0], own_class(), marked()],
        [(X.int(), "a of a floating-point dtype"), (X > 0, "a of a floating-point dtype")],
    ),
    "whole numbers": (
        NOTHING,
        WHOLE,
        [WHOLE * 2],
        [(WHOLE.long(), "a of torch.int32"), (WHOLE.float(), "a of torch.int32")],
    ),
    "dtypes": (Asked(dtypes=True), X, [Y, WIDE], [(X.double(), "a of torch.float32")]),
    "layouts": (Asked(layouts=True), X, [Y, X[:1]], [(WIDE, "a in torch.contiguous_format")]),
    "channels last": (Asked(layouts=True), WIDE, [WIDE * 2], [(X, "a in torch.channels_last")]),
    "channels last, in 3D": (
        Asked(layouts=True),
        WIDER,
        [WIDER + 1],
        [(THREE_D, "a in torch.channels_last_3d")],
    ),
    "strides": (
        Asked(layouts=True),
        TURNED,
        [TURNED + 0],
        [(torch.ones_like(TURNED).contiguous(), "a of strides")],
    ),
    "strides, in 3D": (
        Asked(layouts=True),
        THREE_D.transpose(1, 4),
        [],
        [(THREE_D.transpose(1, 4).contiguous(), "a of strides")],
    ),
    "classes": (Asked(classes=True), X, [X, P], [(own_class(), "a of a class of torch's")]),
    "parameters": (Asked(parameters=True), X, [Y], [(P, "a of the class Tensor")]),
    "a parameter": (NOTHING, P, [P], [(X, "a of the class Parameter")]),
    "another class": (NOTHING, own_class(), [], [(X, "a of the class Own")]),
    "attributes": (
        Asked(absent=frozenset({"mask", "more"})),
        X,
        [Y],
        [(marked(), "a without an attribute mask")],
    ),
    "gradients": (
        Asked(gradients=True),
        X,
        [Y],
        [(X.clone().requires_grad_(), "a with requires_grad=False")],
    ),
}


@pytest.mark.parametrize("name", ASKS)
def test_what_was_asked_of_a_tensor_is_asserted(name: str) -> None:
    asked, example, same, others = ASKS[name]
    graph = graph_of(by_star, example, asked=asked)
    with torch.no_grad():
        for each in (example, *same):
            assert graph(each)[0] is each
        for other, says in others:
            with pytest.raises(AssertionError, match=f"folded for {says}"):
                graph(other)


MODES = {
    "gradients": (Asked(gradients=True), torch.enable_grad(), r"calls under torch\.no_grad"),
    "autocast": (Asked(autocast=True), torch.autocast("cpu"), "calls without autocast"),
}


@pytest.mark.parametrize("name", MODES)
def test_the_modes_of_a_call_are_asserted(name: str) -> None:
    asked, mode, says = MODES[name]
    with torch.no_grad():
        graph = graph_of(by_place, 1, X, asked=asked)
        assert graph(1, X)[1] is X
        with mode, pytest.raises(AssertionError, match=says):
            graph(1, X)
        unasked = graph_of(by_place, 1, X)
        with mode:
            unasked(1, X.clone().requires_grad_())
        assert graph_of(by_place, 1, 2, asked=asked)(1, 2) == [1, 2]  # no tensor asks


def test_autocast_of_the_example_is_asserted() -> None:
    with torch.autocast("cpu"):
        graph = graph_of(by_place, X, Y, asked=Asked(autocast=True))
        graph(X, Y)
    with pytest.raises(AssertionError, match=r"calls with torch\.bfloat16 autocast"):
        graph(X, Y)


def test_which_arguments_are_one_is_asserted() -> None:
    one = graph_of(by_place, X, X, asked=Asked(identities=True))
    two = graph_of(by_place, X, Y, asked=Asked(identities=True))
    one(Y, Y), two(Y, X)
    with pytest.raises(AssertionError, match="inputs where a is b"):
        one(X, Y)
    with pytest.raises(AssertionError, match="inputs where a is not b"):
        two(X, X)
    graph_of(by_place, X, Y)(X, X)
    never = graph_of(by_place, X, WHOLE, asked=Asked(identities=True))
    assert operator.is_not not in [node.target for node in never.graph.nodes]
    never = graph_of(by_place, X, X.int(), asked=Asked(identities=True))
    assert operator.is_not not in [node.target for node in never.graph.nodes]
    assert graph_of(by_place, X, 1, asked=Asked(identities=True))(X, 1)[1] == 1
    with pytest.raises(AssertionError, match="inputs where a is not b"):
        graph_of(by_place, X, X.double(), asked=Asked(identities=True))(X, X)


def test_the_default_dtype_is_asserted() -> None:
    graph, unasked = (
        graph_of(by_place, X, Y, asked=Asked(default_dtype=True)),
        graph_of(by_place, X, Y),
    )
    graph(X, Y)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(AssertionError, match=r"a default dtype of torch\.float32"):
            graph(X, Y)
        unasked(X, Y)
    finally:
        torch.set_default_dtype(torch.float32)


def with_containers(a: Any, b: Any = (1, [2.0, {"k": None}]), c: Any = torch.float32) -> None: ...


def test_defaults_stay_those_of_the_model() -> None:
    for way in (by_place, with_default, with_containers):
        ours = inspect.signature(graph_of(way, X, 3).forward).parameters
        theirs = inspect.signature(way).parameters
        assert [each.default for each in ours.values()] == [p.default for p in theirs.values()]


def test_a_graph_is_read_from_a_file() -> None:
    every = Asked(*[True] * 8, absent=frozenset({"mask"}))
    with torch.no_grad():
        given = {"k": [X, (Y, 3)]}, collections.OrderedDict(p=WHOLE)
        graph = pickle.loads(pickle.dumps(graph_of(by_place, *given, asked=every)))
        assert len(graph(*given)) == 4
        for other in (({"k": [X, (X, 3)]}, given[1]), (given[0], {"p": WHOLE})):
            with pytest.raises(AssertionError, match="folded for"):
                graph(*other)
