"""The pipeline: fixed point, bound, verification, and one verdict a BatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes import pipeline
from bnfx.passes.graph import Affine, Graph, GraphError, Node, Opaque
from bnfx.passes.pipeline import RuleError, warn_of_failure
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome, Site
from bnfx.passes.rules import (
    fold_affine_into_linear,
    fold_affine_into_next_linear,
    lower_batch_norm,
    merge_affines,
    merge_parallel_affines,
    merge_parallel_linear,
    merge_serial_linear,
    move_affine,
)
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Change, Rule

FOLD, MERGE, LOWER = fold_affine_into_linear.RULE, merge_affines.RULE, lower_batch_norm.RULE
MOVE, NEXT = move_affine.RULE, fold_affine_into_next_linear.RULE
PARALLEL, SERIAL = merge_parallel_linear.RULE, merge_serial_linear.RULE
BESIDE = merge_parallel_affines.RULE


def is_norm(node: Node) -> bool:
    return isinstance(node.role, Affine)


def accept(node: Node, values: Any) -> Iterator[Refusal]:
    yield from ()


def toy(rewrite: Callable[[Graph, Node, Any], Change], refuse: Any = accept) -> Rule:
    return Rule("toy-rule", is_norm, refuse, rewrite)


@pytest.fixture
def model() -> Model:
    return Model()


def small(model: Model) -> Node:
    """x -> conv -> norm -> relu; gives norm."""
    norm = model.batch_norm("norm", model.conv("conv", model.x))
    model.add("relu", Opaque(), norm)
    return norm


def test_rules_are_in_their_order() -> None:
    order = (FOLD, PARALLEL, BESIDE, MOVE, NEXT, MERGE, SERIAL, LOWER)
    assert order == RULES
    assert [rule.name for rule in RULES] == [
        "fold-affine-into-linear",
        "merge-parallel-linear",
        "merge-parallel-affines",
        "move-affine",
        "fold-affine-into-next-linear",
        "merge-affines",
        "merge-serial-linear",
        "lower-batch-norm",
    ]


def test_a_chain_is_folded_to_its_last_map(model: Model) -> None:
    node = model.conv("conv", model.x)
    for name in ("first", "second", "third"):
        node = model.batch_norm(name, node)
    report = model.run(*RULES)
    assert [node.name for node in model.graph] == ["x", "conv"]
    assert [(v.site.name, v.outcome, v.target) for v in report.verdicts] == [
        (name, Outcome.FOLDED, "conv") for name in ("first", "second", "third")
    ]


def test_rules_run_again_after_later_ones(model: Model) -> None:
    """The fold of ``second`` is possible only once the merge has removed ``first``'s reader."""
    conv = model.conv("conv", model.x)
    first = model.batch_norm("first", conv)
    model.batch_norm("second", first)

    def only_before_a_reader(node: Node, values: Any) -> Iterator[Refusal]:
        if any(is_norm(user) for user in node.users):
            yield Refusal(Code.OTHER_READERS, "a map follows")
        yield from FOLD.refuse(node, values)

    fold = Rule(FOLD.name, FOLD.match, only_before_a_reader, FOLD.rewrite)
    report = model.run(fold, MERGE)
    assert [node.name for node in model.graph] == ["x", "conv"]
    assert [(v.outcome, v.target) for v in report.verdicts] == [
        (Outcome.FOLDED, "conv"),
        (Outcome.MERGED, "first"),
    ]


def test_every_site_gets_one_verdict_in_the_order_of_the_graph(model: Model) -> None:
    conv = model.conv("conv", model.x)
    folded = model.batch_norm("folded", conv)
    relu = model.add("relu", Opaque(), folded)
    merged = model.batch_norm("merged", model.batch_norm("lowered", relu))
    broken = model.batch_norm("broken", merged, statistics={"var": -1})
    training = Refusal(Code.TRAINING_MODE, "it is in training mode")
    site = model.batch_norm("training", broken).sites
    unread = model.add("training", Opaque(), broken, sites=site, refusals=(training,))
    model.graph.splice_out(next(node for node in broken.users if is_norm(node)))
    model.add("output", Opaque(), unread)

    report = model.run(*RULES)

    assert [(v.site.name, v.outcome) for v in report.verdicts] == [
        ("folded", Outcome.FOLDED),
        ("lowered", Outcome.LOWERED),
        ("merged", Outcome.MERGED),
        ("broken", Outcome.KEPT),
        ("training", Outcome.KEPT),
    ]
    codes = [[refusal.code for refusal in v.refusals] for v in report.verdicts]
    assert codes[:3] == [[], [Code.NO_LINEAR_BEFORE, Code.NON_FINITE, Code.NON_FINITE], []]
    assert set(codes[3]) == {Code.NON_FINITE}
    assert codes[4] == [Code.TRAINING_MODE]
    counts = {outcome.value: report.count(outcome) for outcome in Outcome}
    assert counts == {"folded": 1, "merged": 1, "lowered": 1, "synchronised": 0, "kept": 2}


def test_a_reason_that_several_rules_have_is_given_once(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), statistics={"beta": np.nan})
    (verdict,) = model.run(*RULES).verdicts
    assert [refusal.reason for refusal in verdict.refusals] == [
        "norm.beta holds NaN or infinity",
        "its shift is NaN or infinite",
    ]


def test_a_node_of_two_sites_gives_two_verdicts(model: Model) -> None:
    norm = small(model)
    norm.sites = (*norm.sites, Site("again", "batch_norm"))
    report = model.run(*RULES)
    assert [(v.site.name, v.outcome) for v in report.verdicts] == [
        ("norm", Outcome.FOLDED),
        ("again", Outcome.FOLDED),
    ]


def test_without_rules_all_is_kept_and_says_so(model: Model) -> None:
    small(model)
    verdict = model.refused_by()
    assert verdict.outcome is Outcome.KEPT
    assert [refusal.code for refusal in verdict.refusals] == [Code.RULE_DISABLED]


def test_a_rule_that_is_about_something_else_leaves_it_disabled(model: Model) -> None:
    small(model)
    assert [refusal.code for refusal in model.refused_by(MERGE).refusals] == [Code.RULE_DISABLED]


def test_the_pipeline_is_idempotent(model: Model) -> None:
    model.batch_norm("last", small(model))
    model.run(*RULES)
    before = model.picture()
    model.run(*RULES)
    assert model.picture() == before


def test_an_empty_graph_has_an_empty_report() -> None:
    assert pipeline.run(Graph()).verdicts == ()


def test_the_bound_on_rewrites_is_enforced(model: Model) -> None:
    small(model)
    rewritten: list[Node] = []

    def forever(graph: Graph, node: Node, values: Any) -> Change:
        rewritten.append(node)
        return Change(Outcome.LOWERED, node)

    with pytest.raises(GraphError, match="did not reach a fixed point"):
        model.run(toy(forever))
    assert len(rewritten) == 17  # four nodes allow sixteen rewrites


def boom(*_: Any) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize(
    "rule",
    [
        toy(boom),
        toy(boom, refuse=boom),
        Rule("toy-rule", boom, accept, boom),
    ],
    ids=["rewrite", "refuse", "match"],
)
def test_a_rule_that_raises_is_named(model: Model, rule: Rule) -> None:
    small(model)
    with pytest.raises(
        RuleError, match=r"rule toy-rule failed at \w+: ZeroDivisionError"
    ) as caught:
        model.run(rule)
    assert caught.value.rule is rule
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def one_way_in(graph: Graph, node: Node, values: Any) -> Change:
    del node.inputs[0].users[node]
    return Change(Outcome.LOWERED, node)


def one_way_out(graph: Graph, node: Node, values: Any) -> Change:
    for user in node.users:
        user.inputs = [node.inputs[0]]
    return Change(Outcome.LOWERED, node)


def two_inputs(graph: Graph, node: Node, values: Any) -> Change:
    (before,) = node.inputs
    node.inputs = [before, before]
    return Change(Outcome.LOWERED, node)


def stranger(graph: Graph, node: Node, values: Any) -> Change:
    node.inputs = [Node("stranger", Opaque(), [], users={node: None})]
    return Change(Outcome.LOWERED, node)


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (one_way_in, "edge conv -> norm is broken"),
        (one_way_out, "relu is said to read norm, but does not"),
        (two_inputs, "norm must have 1 data inputs, not 2"),
        (stranger, "edge stranger -> norm is broken"),
    ],
)
def test_a_rule_that_breaks_an_edge_is_caught_at_once(
    model: Model, rewrite: Any, message: str
) -> None:
    small(model)
    with pytest.raises(RuleError, match=f"rule toy-rule failed at norm: .*{message}") as caught:
        model.run(toy(rewrite))
    assert isinstance(caught.value.__cause__, GraphError)


def test_a_rule_that_breaks_a_far_edge_is_caught_at_once(model: Model) -> None:
    norm = small(model)

    def rewrite(graph: Graph, node: Node, values: Any) -> Change:
        node.role = Opaque()
        del model.x.users[norm.inputs[0]]
        return Change(Outcome.LOWERED, node)

    with pytest.raises(GraphError, match="edge x -> conv is broken"):
        model.run(toy(rewrite))


def test_a_rule_that_runs_a_node_before_its_input_is_caught_at_once(model: Model) -> None:
    norm = small(model)

    def rewrite(graph: Graph, node: Node, values: Any) -> Change:
        node.role = Opaque()
        (relu,) = norm.users
        late = graph.append(Node("late", Opaque(), [norm]))
        relu.inputs.append(late)
        late.users[relu] = None
        return Change(Outcome.LOWERED, node)

    with pytest.raises(RuleError, match="relu runs before its input late"):
        model.run(toy(rewrite))


def test_a_node_joins_a_graph_after_its_inputs_only(model: Model) -> None:
    stranger = Node("stranger", Opaque(), [])
    with pytest.raises(GraphError, match="relu reads stranger, which is not in the graph"):
        model.add("relu", Opaque(), stranger)


def test_a_node_that_is_gone_is_not_looked_at(model: Model) -> None:
    """It was there when the sweep began."""
    norm = small(model)
    model.batch_norm("last", norm)
    seen: list[str] = []

    def take_the_next(graph: Graph, node: Node, values: Any) -> Change:
        seen.append(node.name)
        graph.splice_out(next(user for user in node.users if is_norm(user)))
        node.role = Opaque()
        return Change(Outcome.LOWERED, node)

    model.run(toy(take_the_next))
    assert seen == ["norm"]


def test_who_asks_is_told_which_node_carries_out_what(model: Model) -> None:
    norm = small(model)
    conv, carried = norm.inputs[0], dict[Node, list[Site]]()
    pipeline.run(model.graph, carried=carried)
    assert carried == {conv: list(norm.sites)}


def test_no_numbers_are_kept_but_those_that_are_written(model: Model) -> None:
    norm = small(model)
    values = model.values
    values.stored(norm.role.map.scale, "float32")
    pipeline.run(model.graph, [FOLD], values)
    assert len(values._stored) == 2, "weight and bias"


@pytest.mark.filterwarnings("ignore::bnfx.passes.report.RewriteWarning")
@pytest.mark.parametrize("named", [True, False])
def test_a_failure_is_told_with_the_rule_that_failed(
    model: Model, caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    error = RuleError(toy(boom), model.x, ValueError()) if named else ValueError()
    caplog.set_level("INFO", "bnfx")
    try:
        raise error
    except Exception as caught:
        message = warn_of_failure(caught, "folding", "graph")
    what = "rule toy-rule" if named else "folding"
    assert message.startswith(f"bnfx: {what} failed and the original graph is used: ")
    assert caplog.records[-1].exc_info, "where it failed is in the log"
