"""What a rewrite is asked for, and what it does if nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.body_graphs import Outer, graph_of, norm, ops
from fx.traced_nets import parameters, traced
from torch import fx

from bnfx.passes.algebra import Dense, Source
from bnfx.passes.fx.rewrite import Rewritten, make_values, rewrite
from bnfx.passes.report import Outcome

Given = tuple[fx.GraphModule, dict[str, torch.Tensor]]


def _norm(n: Any, x: Any) -> Any:
    stats = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
    return F.batch_norm(F.conv2d(x, n.conv.weight), *stats, False, 0.1, 1e-5)


def _positive() -> Given:
    """A scale that may move on across the maximum, as it is positive."""
    _, module = traced(lambda n, x: F.conv2d(torch.relu(torch.mul(x, n.scale)), n.conv.weight))
    return module, parameters(module)


def _halves() -> Given:
    _, module = traced(_norm)
    tensors = {name: value.detach().half() for name, value in parameters(module).items()}
    for node in module.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = node.meta["val"].half()
    return module, tensors


def _plain() -> Given:
    _, module = traced(_norm)
    return module, parameters(module)


def _body() -> Given:
    outer = Outer({"yes": graph_of(norm)}, 1, as_inputs=True)
    called = outer.run(ops.invoke_subgraph, "self.yes", "yes", outer.x, *outer.sets[0])
    return outer.module(called), outer.tensors


def _changes(result: Rewritten) -> bool:
    return bool(result.slots)


def _folds(result: Rewritten) -> bool:
    return result.report.count(Outcome.FOLDED) == 1


def _tells_rounding(result: Rewritten) -> bool:
    return all(verdict.error is not None for verdict in result.report.verdicts)


def _has_details(result: Rewritten) -> bool:
    return result.report.details is not None


@pytest.mark.parametrize(
    ("option", "net", "shows", "if_unsaid"),
    [
        ("signs", _positive, _changes, True),
        ("fixed", _halves, _folds, True),
        ("bodies", _body, _folds, True),
        ("measured", _plain, _tells_rounding, True),
        ("detailed", _plain, _has_details, False),
    ],
)
def test_options_of_a_rewrite(
    option: str, net: Callable[[], Given], shows: Callable[[Rewritten], bool], if_unsaid: bool
) -> None:
    for said in (True, False, None):
        module, tensors = net()
        options: dict[str, Any] = {} if said is None else {option: said}
        result = rewrite(module, tensors, form="placeholders", **options)
        assert shows(result) is (if_unsaid if said is None else said)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (True, True, True)),
        ({"signs": False}, (False, True, True)),
        ({"fixed": False}, (True, False, True)),
        ({"measured": False}, (True, True, False)),
    ],
)
def test_numbers_may_be_read_stored_and_measured(
    said: dict[str, bool], expected: tuple[bool, ...]
) -> None:
    weight = Source("w", (4, 4), "float16")
    values = make_values({"w": torch.ones(4, 4)}, **said)
    assert values is not None
    stores = not list(values.refuse_operator(Dense(weight, None), ("float16",)))
    assert (values.is_nonnegative(weight), stores, values.measured) == expected
