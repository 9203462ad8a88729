"""Branches and functions inside of a function: what is folded there, what stays the caller's."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from relax.cases_structure import CASES, _script
from relax.graphs import Make, count
from relax.lifted import TYPE, conv, typed
from tvm import relax

from bnfx import Code
from bnfx.passes.algebra import Conv, ConvTranspose, Source
from bnfx.passes.relax.emit import RelaxEmitter
from bnfx.passes.relax.expressions import Bindings, op_name
from bnfx.passes.relax.rewrite import rewrite_module
from bnfx.passes.report import Outcome

LAYER = """
            conv_out = conv_{0}(x)
            norm_out = norm_{0}(conv_out)
            out = norm_out[0]"""
PLAIN = """
            out = conv_c(x)"""
BRANCHES = """
        if which:{}
            result = R.nn.relu(out)
        else:{}
            result = R.nn.relu(out)
        return result
"""


@pytest.mark.parametrize("sites", [["then"], ["else"], ["then", "else"], []])
def test_each_branch_is_folded(sites: list[str]) -> None:
    then = LAYER.format("a") if "then" in sites else PLAIN
    other = LAYER.format("b") if "else" in sites else PLAIN
    module = _script(Make(0), BRANCHES.format(then, other), "2, 8, 4, 5", (4, 4, 4))
    result = rewrite_module(module)
    verdicts = [verdict for report in result.reports for verdict in report.verdicts]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.FOLDED] * len(sites)
    assert [verdict.site.name.split(".")[1] for verdict in verdicts] == sites
    assert count(result.module)["nn.batch_norm"] == 0
    assert (result.module is module) is (not sites)
    (branches,) = _found(result.module["main"], relax.If)
    assert branches.cond.same_as(result.module["main"].params[1])
    adds = [
        sum(op_name(call) == "add" for call in _found(branch, relax.Call))
        for branch in (branches.true_branch, branches.false_branch)
    ]
    assert adds == [int(name in sites) for name in ("then", "else")]


def _found(scope: Any, kind: type) -> list[Any]:
    found: list[Any] = []
    relax.analysis.post_order_visit(scope, found.append)
    return [expr for expr in found if isinstance(expr, kind)]


def test_bindings_as_a_value_are_folded() -> None:
    inner = Make(0).module(lambda make: make.batch_norm(conv(make), 8))["main"]
    variable = relax.Var("result", TYPE)
    block = relax.BindingBlock([relax.VarBinding(variable, inner.body)])
    function = relax.Function(inner.params, typed(relax.SeqExpr([block], variable)), TYPE)
    result = rewrite_module(tvm.IRModule({"main": function}))
    assert [v.outcome for r in result.reports for v in r.verdicts] == [Outcome.FOLDED]
    assert count(result.module)["nn.batch_norm"] == 0


@pytest.mark.parametrize("name", ["branches", "closure"])
def test_what_is_captured_moves_on(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    result = rewrite_module(case.module())
    outcomes = [v.outcome for report in result.reports for v in report.verdicts]
    assert outcomes == [Outcome.FOLDED, Outcome.FOLDED]
    assert count(result.module)["nn.batch_norm"] == 0


@pytest.mark.parametrize("owned", [False, True])
def test_a_function_inside(owned: bool) -> None:
    """One that is somebody's match is left to them."""
    attributes = 'R.func_attr({"Composite": "own.layer"})' if owned else "R.func_attr({})"
    text = f"""
        @R.function
        def inner(y: R.Tensor((2, 4, 6, 7), "float64")) -> R.Tensor((2, 8, 4, 5), "float64"):
            {attributes}
            one = conv_a(y)
            part = norm_a(one)
            first = part[0]
            return first
        result = inner(x)
        return result
"""
    result = rewrite_module(_script(Make(0), text, "2, 8, 4, 5", (4,)))
    (verdict,) = (v for report in result.reports for v in report.verdicts)
    assert verdict.site.name.startswith("function_0.")
    assert verdict.outcome is (Outcome.KEPT if owned else Outcome.FOLDED)
    assert [refusal.code for refusal in verdict.refusals] == [Code.NESTED_GRAPH] * owned
    assert count(result.module)["nn.batch_norm"] == owned


def test_a_value_that_two_pairs_of_branches_capture() -> None:
    """It is given its old name once, and the names stay unique."""
    text = """
        before = conv_a(x)
        whole = norm_a(before)
        read = whole[0]
        if which:
            one = R.nn.relu(read)
        else:
            one = R.exp(read)
        if which:
            two = R.sigmoid(read)
        else:
            two = R.tanh(read)
        result = R.add(one, two)
        return result
"""
    result = rewrite_module(_script(Make(0), text, "2, 8, 4, 5", (4,)))
    assert [v.outcome for r in result.reports for v in r.verdicts] == [Outcome.FOLDED]
    assert count(result.module)["nn.batch_norm"] == 0
    bound = [
        binding.var
        for block in result.module["main"].body.blocks
        for binding in block.bindings
        if "read" in binding.var.name
    ]
    assert len(bound) == len(set(bound))


def test_a_function_that_binds_nothing() -> None:
    x = relax.Var("x", TYPE)
    function = relax.Function([x], relax.SeqExpr([], x), TYPE)
    flow = Bindings(function.body, function.params)
    assert not flow.is_dataflow(flow.values[0])
    module = tvm.IRModule({"main": function})
    result = rewrite_module(module)
    assert result.module is module
    assert [report.verdicts for report in result.reports] == [()]


def _emitter() -> RelaxEmitter:
    flow = Bindings(relax.SeqExpr([], relax.Var("x", TYPE)))
    return RelaxEmitter(flow, relax.BlockBuilder())


def test_a_transposed_convolution_is_written_as_one() -> None:
    x = relax.Var("x", TYPE)
    weight, ones, none = Source("w", (8, 4, 3, 3), "float64"), (1, 1), ((0, 0), (0, 0))
    bounds = ((1, 0), (1, 0))
    operator = ConvTranspose(weight, None, (2, 2), bounds, output_padding=(1, 0), dilation=ones)
    call = _emitter().operator(operator, x, relax.Var("w", TYPE), 4)
    assert call.op.name == "relax.nn.conv2d_transpose"
    assert list(call.attrs.strides) == [2, 2]
    assert list(call.attrs.output_padding) == [1, 0]
    assert str(call.attrs.kernel_layout) == "IOHW"
    conv = Conv(weight, None, stride=ones, padding=none, dilation=ones)
    plain = _emitter().operator(conv, x, relax.Var("w", TYPE), 4)
    assert plain.op.name == "relax.nn.conv2d"


def test_a_value_that_is_seen_outside_stands_for_all() -> None:
    """A variable of a dataflow block is not seen behind it."""
    inside, also = relax.DataflowVar("a", TYPE), relax.DataflowVar("b", TYPE)
    outside = relax.Var("c", TYPE)
    emitter = _emitter()
    assert emitter.seen_by_all([inside, outside, also]).same_as(outside)
    assert emitter.seen_by_all([inside, also]).same_as(also)
