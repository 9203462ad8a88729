"""Graphs that ops run, made by hand: which they are, what they take, and what becomes of them."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.body_graphs import Body, Outer, graph_of, norm, ops, plain, weights, writing
from fx.traced_nets import X
from support import relative
from torch import fx, nn

from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.rewrite import Rewritten, rewrite
from bnfx.passes.refusals import Code
from bnfx.passes.report import Outcome


def _same(module: fx.GraphModule, outer: Outer, form: Any) -> Rewritten:
    """Rewritten, and what it gives is what ``module`` gives."""
    result = rewrite(module, outer.tensors, form=form)
    more: list[torch.Tensor] = []
    if form == "attributes":
        pairs = zip(result.slots, result.evaluate() or [], strict=True)
        fill(result.module, {slot.name: value for slot, value in pairs})
    elif form == "placeholders":
        more = result.evaluate() or []
    with torch.no_grad():
        for x in (X, -X):
            want = module(x, *outer.tensors.values())
            got = result.module(x, *outer.tensors.values(), *more)
            for mine, theirs in zip(got, want, strict=True):
                assert relative(mine, theirs) < 1e-13
    return result


def _calls(module: fx.GraphModule, target: Any) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="call_function", target=target))


def _inputs(module: fx.GraphModule, name: str) -> str:
    body = module.get_submodule(name)
    assert isinstance(body, fx.GraphModule)
    return " ".join(node.name for node in body.graph.find_nodes(op="placeholder"))


def _branches(yes: Body, no: Body, as_inputs: bool) -> tuple[Outer, fx.GraphModule]:
    outer = Outer({"yes": graph_of(yes), "no": graph_of(no)}, 1, as_inputs)
    total = outer.graph.call_function(torch.sum, (outer.x,))
    test = outer.graph.call_function(operator.gt, (total, 0))
    given = (outer.x, *outer.sets[0])
    return outer, outer.module(outer.run(ops.cond, test, "self.yes", "self.no", given))


FORMS = ("attributes", "placeholders", "traced")


@pytest.mark.parametrize("form", FORMS)
def test_branches_take_the_same_operands(form: Any) -> None:
    for yes, no, folds in ((norm, plain, 1), (plain, norm, 1), (norm, norm, 2)):
        outer, module = _branches(yes, no, form != "attributes")
        result = _same(module, outer, form)
        assert result.report.count(Outcome.FOLDED) == folds
        (call,) = _calls(result.module, ops.cond)
        taken = [node.name for node in call.args[3]]  # type: ignore[union-attr, arg-type]
        if form == "traced":
            assert len(taken) == 6
            continue
        old = [] if folds == 2 else ["w0"]
        assert taken[: 1 + len(old)] == ["x", *old]
        assert len(taken) == 1 + len(old) + 2 * folds
        bodies = [str(each.target) for each in call.args[1:3]]  # type: ignore[union-attr]
        assert bodies == ["yes_folded", "no_folded"]
        first, second = (_inputs(result.module, name) for name in bodies)
        if folds == 2:
            assert first == "x conv2d_weight conv2d_bias _of_another_body_0 _of_another_body_1"
            assert second == "x _of_another_body_0 _of_another_body_1 conv2d_weight conv2d_bias"
        else:
            slots = "conv2d_weight conv2d_bias"
            others = "_of_another_body_0 _of_another_body_1"
            expected = (slots, others) if yes is norm else (others, slots)
            assert (first, second) == tuple(f"x w {each}" for each in expected)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_body_writes_to(form: Any) -> None:
    _, module = _branches(writing, norm, form != "attributes")
    outer, _ = _branches(writing, norm, form != "attributes")
    report = rewrite(module, outer.tensors, form=form).report
    assert report.count(Outcome.FOLDED) == 0


def _regions(second: Body, form: Any, sets: int = 2) -> tuple[Outer, fx.GraphModule]:
    """One body with weights of its own, or two that are alike, each run with other weights."""
    first = graph_of(norm)
    bodies = {"one": first, "other": first if second is norm else graph_of(second)}
    outer = Outer(bodies, sets, form != "attributes")
    a = outer.run(ops.invoke_subgraph, "self.one", "one", outer.x, *outer.sets[0])
    b = outer.run(ops.invoke_subgraph, "self.other", "other", outer.x, *outer.sets[-1])
    return outer, outer.module(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_bodies_stay_shared(form: Any) -> None:
    outer, module = _regions(norm, form)
    result = _same(module, outer, form)
    assert result.report.count(Outcome.FOLDED) == 2
    first, second = _calls(result.module, ops.invoke_subgraph)
    assert first.args[0].target == "one_folded"  # type: ignore[union-attr]
    assert second.args[0].target == "one_folded"  # type: ignore[union-attr]
    assert [call.args[1] for call in (first, second)] == [
        str(call.args[0].target)
        for call in (first, second)  # type: ignore[union-attr]
    ]
    names = [verdict.site.name for verdict in result.report.verdicts]
    assert len(set(names)) == 2


def test_one_of_several_that_has_nothing_to_fold() -> None:
    outer, module = _regions(plain, "placeholders")
    result = _same(module, outer, "placeholders")
    first, second = _calls(result.module, ops.invoke_subgraph)
    assert (first.args[1], second.args[1]) == ("one_folded", "other")
    assert len(second.args) == 8
    assert result.module.get_submodule("other") is module.get_submodule("other")


def owning(seed: int, folds: bool = True) -> fx.GraphModule:
    """A body that has weights of its own, and no inputs."""

    root = nn.Module()
    for name, value in weights(seed).items():
        root.register_buffer(name, value)
    graph = fx.Graph()
    made = graph.call_function(torch.ones, ((1, 4, 2, 3),), {"dtype": torch.float64})
    made.meta["val"] = torch.ones(1, 4, 2, 3, dtype=torch.float64)
    given = [graph.get_attr(name) for name in weights()]
    y = graph.call_function(F.conv2d, (made, given[0]))
    if folds:
        y.meta["val"] = made.meta["val"]
        y = graph.call_function(F.batch_norm, (y, *given[1:], False, 0.1, 1e-5))
    y.meta["val"] = made.meta["val"]
    graph.output((y,))
    return fx.GraphModule(root, graph)


@pytest.mark.parametrize("form", FORMS)
def test_bodies_that_own_their_weights(form: Any) -> None:
    """They run with others' operands, too."""
    for second in (True, False):
        outer = Outer({"yes": owning(0), "no": owning(1, second)}, 0, form != "attributes")
        total = outer.graph.call_function(torch.sum, (outer.x,))
        test = outer.graph.call_function(operator.gt, (total, 0))
        module = outer.module(outer.run(ops.cond, test, "self.yes", "self.no", ()))
        result = _same(module, outer, form)
        assert result.report.count(Outcome.FOLDED) == 1 + second


def test_bodies_may_be_left_alone() -> None:
    outer, module = _branches(norm, norm, True)
    result = rewrite(module, outer.tensors, form="placeholders", bodies=False)
    assert result.module is module
    codes = {r.code for v in result.report.verdicts for r in v.refusals}
    assert codes == {Code.NESTED_GRAPH}


def test_an_operand_that_was_not_read_stays() -> None:
    outer, module = _branches(plain, lambda x, w, *rest: (F.conv2d(x, w) + rest[0].sum(),), True)
    assert rewrite(module, outer.tensors, form="placeholders").module is module

    def reads_few(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
        return (F.batch_norm(F.conv2d(x, w), mean, var, None, None, False, 0.1, 1e-5),)

    outer, module = _branches(reads_few, reads_few, True)
    result = _same(module, outer, "placeholders")
    (call,) = _calls(result.module, ops.cond)
    taken = [node.name for node in call.args[3]]  # type: ignore[union-attr, arg-type]
    assert taken[:3] == ["x", "gamma0", "beta0"]


@pytest.mark.parametrize("is_method", [True, False])
def test_bodies_that_run_twice_are_named_by_what_they_are_given(is_method: bool) -> None:
    outer, module = _regions(norm, "placeholders")
    for at, given in enumerate(outer.sets):
        for node, owner in zip(given, ("conv", *["bn"] * 4), strict=True):
            path = f"L['self']._modules['b{at}']._modules['{owner}']._parameters['w']"
            name = (lambda path=path: path) if is_method else path
            node._dynamo_source = SimpleNamespace(name=name)
    report = rewrite(module, outer.tensors, form="placeholders").report
    told = [(verdict.site.name, verdict.target) for verdict in report.verdicts]
    assert told == [("batch_norm", "conv2d"), ("b1.bn", "b1.conv")]
    for node in outer.sets[1]:
        node._dynamo_source = SimpleNamespace(name="L['x']")
    report = rewrite(module, outer.tensors, form="placeholders").report
    told = [(verdict.site.name, verdict.target) for verdict in report.verdicts]
    (second,) = (each for each in module.graph.nodes if each.name == "invoke_subgraph_1")
    assert told[1] == (f"batch_norm ({second.name})", f"conv2d ({second.name})")


def test_verdicts_are_in_the_order_in_which_graphs_run() -> None:
    outer = Outer({"yes": graph_of(norm), "no": graph_of(plain)}, 2, True)
    first = outer.run(ops.invoke_subgraph, "self.yes", "id", outer.x, *outer.sets[0])
    first.meta["val"] = X
    again = outer.graph.call_function(F.conv2d, (first, outer.sets[1][0]))
    again.meta["val"] = X
    args = (again, *outer.sets[1][1:], False, 0.1, 1e-5)
    own = outer.graph.call_function(F.batch_norm, args)
    own.meta["nn_module_stack"] = {"own": ("own", nn.BatchNorm2d)}
    own.meta["val"] = X
    second = outer.run(ops.invoke_subgraph, "self.yes", "id", own, *outer.sets[0])
    result = _same(outer.module(second), outer, "placeholders")
    names = [verdict.site.name for verdict in result.report.verdicts]
    assert names == ["batch_norm", "own", "batch_norm (invoke_subgraph_1)"]
    assert result.report.count(Outcome.FOLDED) == 3
    assert result.report.rewrites == {"fold-affine-into-linear": 3}


def test_what_must_hold_of_numbers_in_a_body() -> None:
    def scaled(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
        return (F.conv2d(torch.relu(torch.mul(x, gamma[:, None, None])), w),)

    outer, module = _branches(scaled, plain, True)
    recipe = _same(module, outer, "placeholders").recipe
    assert recipe is not None
    assert len(recipe.slots) == 1
    assert recipe.fill(outer.tensors) is not None
    assert recipe.fill({**outer.tensors, "gamma0": -outer.tensors["gamma0"]}) is None
