"""Relax's expressions as values: what each reads, and how it is built over other operands."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from relax.graphs import Make
from relax.lifted import TYPE
from tvm import relax, tirx

from bnfx.passes.relax.compat import constant
from bnfx.passes.relax.expressions import Bindings, op_name, operands, rebuilt
from bnfx.passes.relax.rewrite import normalised
from bnfx.passes.tvm.dataflow import ValueForm

X, Y, F = (relax.Var(name, TYPE) for name in "xyf")
N, M = tirx.Var("n", "int64"), tirx.Var("m", "int64")
GLOBAL, EXTERN = relax.GlobalVar("other"), relax.ExternFunc("own")
SHAPE = relax.ShapeExpr([N, 2, M + N])
CONSTANT = constant([1.0])
BRANCHES = relax.If(
    X, relax.SeqExpr([], relax.Tuple([Y, Y])), relax.SeqExpr([], relax.Tuple([F, Y]))
)
# What each reads, where the size n is known.
READS: dict[str, tuple[Any, list[Any]]] = {
    "a call of an op": (relax.op.add(X, Y), [X, Y]),
    "a call of a function": (relax.Call(GLOBAL, [X]), [X]),
    "a call of another's": (relax.Call(EXTERN, [X]), [X]),
    "a call of a value": (relax.Call(F, [X, Y]), [F, X, Y]),
    "a tuple": (relax.Tuple([X, CONSTANT]), [X, CONSTANT]),
    "a part": (relax.TupleGetItem(X, 1), [X]),
    "branches": (BRANCHES, [X, X, Y, F]),
    "a shape": (SHAPE, [N, N]),
    "another name": (X, [X]),
    "a constant": (CONSTANT, []),
}


@pytest.mark.parametrize("name", READS)
def test_what_is_read(name: str) -> None:
    expr, expected = READS[name]
    found = list(operands(expr, {N}))
    assert len(found) == len(expected)
    assert all(one.same_as(other) for one, other in zip(found, expected, strict=True))


def test_other_operands() -> None:
    call = rebuilt(relax.op.nn.softmax(X, axis=1), [Y])
    assert (op_name(call), call.args[0].same_as(Y), call.attrs.axis) == ("nn.softmax", True, 1)
    call = rebuilt(relax.Call(F, [X, X]), [X, Y, F])
    assert call.op.same_as(X)
    assert [arg.same_as(new) for arg, new in zip(call.args, [Y, F], strict=True)] == [True, True]
    call = rebuilt(relax.Call(GLOBAL, [X]), [Y])
    assert call.op.same_as(GLOBAL)
    assert call.args[0].same_as(Y)
    assert rebuilt(relax.Tuple([X, X]), [Y, F]).fields[1].same_as(F)
    part = rebuilt(relax.TupleGetItem(X, 3), [Y])
    assert (part.tuple_value.same_as(Y), part.index) == (True, 3)
    assert rebuilt(X, [Y]).same_as(Y)
    assert rebuilt(SHAPE, [M]).same_as(SHAPE)


def test_names_of_ops() -> None:
    assert op_name(relax.op.nn.relu(X)) == "nn.relu"
    for expr in (relax.Call(GLOBAL, [X]), relax.Call(EXTERN, [X]), X, relax.Tuple([X])):
        assert op_name(expr) is None


def _forms(build: Any) -> list[ValueForm]:
    function = Make(0).module(build)["main"]
    return [value.form for value in Bindings(function.body, function.params).values]


def test_forms() -> None:
    forms = _forms(lambda m: m.emit(m.emit(relax.Tuple([m.input(2), m.constant(2)]))[0]))
    F = ValueForm  # noqa: N806
    assert forms == [F.VARIABLE, F.CONSTANT, F.TUPLE, F.PART, F.COPY]
    forms = _forms(lambda m: m.call("reshape", m.input(4), (2, 2)))
    assert forms == [F.VARIABLE, F.OTHER, F.CALL, F.COPY]


def test_one_constant_is_one_value() -> None:
    shared = constant([1.0, 2.0])

    def build(make: Make) -> Any:
        y = make.call("add", make.input(2), shared)
        return make.call("add", y, shared)

    function = Make(0).module(build)["main"]
    values = Bindings(function.body, function.params).values
    (only,) = (value for value in values if value.form is ValueForm.CONSTANT)
    assert len(only.readers) == 2
    assert [value.name for value in values if value.name] == ["x"]


def test_functions_in_normal_form_are_not_copied() -> None:
    """Others are: where a value has no type, or reads a call that has no name."""
    module = Make(0).module(lambda m: m.call("nn.relu", m.input(2)))
    assert normalised(module).same_as(module)
    x = relax.Var("x", TYPE)
    nested = relax.op.nn.relu(relax.op.nn.relu(x))
    function = relax.Function([x], nested, TYPE)
    raw = tvm.IRModule({"main": function})
    normal = normalised(raw)
    assert not normal.same_as(raw)
    (block,) = normal["main"].body.blocks
    assert len(block.bindings) == 2
