"""What is traced, and what a call of it is given."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folding import captured
from torch import fx

from bnfx.inner.base import Inner
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.report import Outcome
from bnfx.passes.rules.ordered import RULES
from bnfx.weights import traced
from bnfx.weights.traced import compile_traced, trace


def inputs() -> tuple[fx.GraphModule, GraphInputs, list[Any]]:
    graph, examples = captured()
    args = [each.clone() for each in examples]
    return graph, GraphInputs.of(graph, args), args


@pytest.mark.parametrize("told", [True, False])
def test_rules_that_cost_at_each_call_are_left_out(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, given, _ = inputs()
    found: list[Any] = []
    rewrite = traced.rewrite_traced

    def seen(module: Any, inputs: Any, rules: Any, measured: bool) -> Any:
        found.extend([[rule.name for rule in rules], measured])
        return rewrite(module, inputs, rules, measured)

    monkeypatch.setattr(traced, "rewrite_traced", seen)
    assert trace(graph, given, RULES, measured=told) is not None
    names, measured = found
    dear = {"merge-serial-linear", "merge-parallel-linear"}
    assert set(names) == {rule.name for rule in RULES} - dear
    assert measured is told


@pytest.mark.parametrize("outcome", [None, *Outcome])
@pytest.mark.parametrize("slots", [(), ("one",)])
def test_what_is_worth_it(
    slots: tuple[str, ...], outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are computed, so that a BatchNorm need not be."""
    graph, given, _ = inputs()
    report = SimpleNamespace(count=lambda asked: int(asked is outcome))
    rewritten = SimpleNamespace(slots=slots, report=report)
    monkeypatch.setattr(traced, "rewrite_traced", lambda *_: rewritten)
    worth = slots and outcome in (Outcome.FOLDED, Outcome.MERGED, Outcome.LOWERED)
    assert trace(graph, given, RULES, True) is (rewritten if worth else None)


def test_what_it_is_given() -> None:
    """The numbers that the fold needs stand behind the arguments; without any, nothing is added."""
    graph, given, args = inputs()
    rewritten = trace(graph, given, RULES, measured=False)
    assert rewritten is not None
    assert rewritten.tables == ()

    def echo(*args: Any) -> Any:
        return args

    taken: list[int] = []
    inner = Inner(lambda module, examples: taken.append(len(examples)) or echo)  # type: ignore
    assert compile_traced(graph, given, rewritten, args, inner) is echo
    table = torch.ones(2)
    call = compile_traced(graph, given, replace(rewritten, tables=(table,)), args, inner)
    assert call(*args) == (*args, table)
    assert taken == [len(args), len(args) + 1]


def writing() -> tuple[fx.GraphModule, GraphInputs, list[Any]]:
    """As ``inputs``, and the graph adds 1 to its input before it reads it."""
    graph, given, args = inputs()
    graph = copy.deepcopy(graph)
    (name,) = given.others
    node = next(each for each in graph.graph.nodes if each.name == name)
    last = graph.graph.find_nodes(op="placeholder")[-1]
    with graph.graph.inserting_after(last):
        added = graph.graph.call_method("add_", (node, 1))
    node.replace_all_uses_with(added, lambda user: user is not added)
    graph.recompile()
    return graph, given, args


@pytest.mark.parametrize("tables", [(), (torch.ones(2),)])
def test_a_write_to_what_was_read_ahead_of_it(tables: tuple[torch.Tensor, ...]) -> None:
    """The fold reads parameters first; where the input that is written to is one, PyTorch runs."""
    graph, given, args = writing()
    rewritten = trace(graph, given, RULES, measured=False)
    assert rewritten is not None
    inner = Inner(lambda module, examples: lambda *args: ("compiled", *args))
    call = compile_traced(graph, given, replace(rewritten, tables=tables), args, inner)
    assert call(*args) == ("compiled", *args, *tables)
    x, mean = 2, 3
    args[mean] = args[x].view(-1)[:8]
    apart = [each.clone() for each in args]
    apart[mean] = apart[x].view(-1)[:8]
    (answer,), (expected,) = call(*args), graph.forward(*apart)
    assert torch.equal(answer, expected)
    assert torch.equal(args[x], apart[x])
