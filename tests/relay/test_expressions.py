"""Relay's expressions as values: what each reads, what bindings stand for, what is not read."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from graphs import Make
from lifted import function_of
from tvm import relay

from bnfx.passes.relay.expressions import Expressions, op_name, operands, rebuilt, static
from bnfx.passes.tvm.dataflow import UnreadableFunctionError, ValueForm

TYPE = relay.TensorType((2, 3), "float32")
X, Y, F = (relay.var(name, TYPE) for name in "xyf")
A, B = relay.var("a"), relay.var("b")
GLOBAL = relay.GlobalVar("other")
CONSTANT = relay.const(1.0)
ADD = relay.add(X, Y)
PAIR = relay.Tuple([X, Y])
BRANCHES = relay.If(X, Y, F)
INNER = relay.Function([X], relay.nn.relu(X))
READS: dict[str, tuple[Any, list[Any]]] = {
    "a call of an op": (ADD, [X, Y]),
    "a call of a function": (relay.Call(GLOBAL, [X]), [GLOBAL, X]),
    "a call of a value": (relay.Call(F, [X, Y]), [F, X, Y]),
    "a tuple": (PAIR, [X, Y]),
    "a part": (relay.TupleGetItem(F, 1), [F]),
    "branches": (BRANCHES, [X, Y, F]),
    "a parameter": (X, []),
    "a constant": (CONSTANT, []),
    "a function": (INNER, []),
}


@pytest.mark.parametrize("name", READS)
def test_what_is_read(name: str) -> None:
    expr, expected = READS[name]
    found = operands(expr)
    assert len(found) == len(expected)
    assert all(one.same_as(other) for one, other in zip(found, expected, strict=True))


def test_other_operands() -> None:
    softmax = rebuilt(relay.nn.softmax(X, axis=1), [Y])
    assert (softmax.op.name, softmax.attrs.axis, softmax.args[0]) == ("nn.softmax", 1, Y)
    called = rebuilt(relay.Call(GLOBAL, [X]), [F, Y])
    assert called.op.same_as(F)
    assert [each.same_as(Y) for each in called.args] == [True]
    assert [each.same_as(F) for each in rebuilt(PAIR, [F, F]).fields] == [True, True]
    part = rebuilt(relay.TupleGetItem(F, 1), [Y])
    assert part.tuple_value.same_as(Y)
    assert part.index == 1
    other = rebuilt(BRANCHES, [F, X, Y])
    assert operands(other) == [F, X, Y]


def test_names_and_sizes() -> None:
    assert (op_name(ADD), op_name(relay.Call(GLOBAL, [X])), op_name(X)) == ("add", None, None)
    sizes = (3, tvm.tir.IntImm("int32", 4), relay.Any(), tvm.tir.Var("n", "int32"))
    assert [static(size) for size in sizes] == [3, 4, None, None]


def _read(body: Any, *params: Any) -> Expressions:
    return Expressions(relay.Function(params or [X, Y], body))


def _shown(read: Expressions) -> list[str]:
    """All values in order: an op's name, or a parameter's."""
    return [value.op or value.name or value.form.name for value in read.values]


def test_values_come_after_what_they_read() -> None:
    product = relay.multiply(ADD, relay.nn.relu(ADD))
    read = _read(relay.subtract(product, X))
    assert _shown(read) == ["x", "y", "add", "nn.relu", "multiply", "subtract"]
    total = read.values[2]
    assert [reader.op for reader in total.readers] == ["nn.relu", "multiply"]
    assert read.result is read.values[-1]
    assert not read.pinned
    assert not read.dead
    assert not read.must_run(total)


def test_forms() -> None:
    read = _read(relay.Tuple([relay.Call(INNER, [CONSTANT]), relay.TupleGetItem(F, 1), BRANCHES]))
    forms = {type(value.expr): value.form for value in read.values}
    assert forms == {
        relay.Call: ValueForm.CALL,
        relay.Constant: ValueForm.CONSTANT,
        relay.Var: ValueForm.VARIABLE,
        relay.Tuple: ValueForm.TUPLE,
        relay.TupleGetItem: ValueForm.PART,
        relay.Function: ValueForm.NESTED,
        relay.If: ValueForm.OTHER,
    }
    assert all(value.kind is None for value in read.values if value.form is ValueForm.CALL)
    assert {value.name for value in read.values if value.name} == {"x", "y", "f"}


def test_types_are_known_once_they_are_inferred() -> None:
    read = Expressions(function_of(ADD))
    assert read.result.kind == TYPE


def test_bindings_are_what_they_bind() -> None:
    """And a part of a tuple is what it was made of, however it was bound."""
    read = _read(relay.Let(A, ADD, relay.nn.relu(A)))
    assert _shown(read) == ["x", "y", "add", "nn.relu"]
    body = relay.Let(A, PAIR, relay.Let(B, A, relay.nn.relu(relay.TupleGetItem(B, 1))))
    assert [v.op or v.name for v in _read(body).result.args] == ["y"]
    nested = relay.TupleGetItem(relay.TupleGetItem(relay.Tuple([X, PAIR]), 1), 0)
    assert _read(nested).result.name == "x"
    assert _read(relay.TupleGetItem(F, 0)).result.form is ValueForm.PART


def test_what_nobody_reads() -> None:
    """Is known, and dead; and so is what it binds itself."""
    inside = relay.Let(B, relay.exp(X), relay.const(2.0))
    read = _read(relay.Let(A, inside, relay.nn.relu(X)))
    assert _shown(read) == ["x", "nn.relu", "CONSTANT", "exp"]
    assert {value.op for value in read.dead} == {None, "exp"}
    assert [reader.op for reader in read.values[0].readers] == ["nn.relu"]


REFUSED = {
    "it uses RefCreate": relay.RefCreate(X),
    "it uses RefWrite": relay.Let(A, relay.RefWrite(F, X), Y),
    "it uses RefRead": relay.RefRead(F),
    "it calls on_device": relay.op.annotation.on_device(X, tvm.cpu()),
    "it calls device_copy": relay.op.device_copy(X, tvm.cpu(), tvm.cpu()),
    "a function inside captures a": relay.Let(
        A, ADD, relay.Call(relay.Function([], relay.nn.relu(A)), [])
    ),
    "a value is computed from itself": relay.Let(A, relay.nn.relu(A), A),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_read(why: str) -> None:
    with pytest.raises(UnreadableFunctionError) as error:
        _read(REFUSED[why])
    assert str(error.value) == why


def test_a_write_in_what_nobody_reads_is_seen() -> None:
    """It was dropped with what is dead, and its effect with it."""
    inside = relay.Let(B, relay.RefWrite(F, X), relay.const(2.0))
    with pytest.raises(UnreadableFunctionError, match="RefWrite"):
        _read(relay.Let(A, inside, relay.nn.relu(X)))


def test_what_functions_inside_may_read() -> None:
    """Parameters, and bindings of their own."""
    bound = relay.Let(B, relay.exp(Y), relay.nn.relu(B))
    read = _read(relay.Let(A, ADD, relay.add(A, relay.Call(relay.Function([], bound), []))))
    assert "FUNCTION" not in _shown(read)
    assert [value.form for value in read.values].count(ValueForm.NESTED) == 1


def test_a_captured_name_is_said_once() -> None:
    x = Make(0).input(2)
    inner = relay.Function([], relay.add(relay.add(A, B), relay.add(A, x)))
    body = relay.Let(A, relay.exp(x), relay.Let(B, relay.exp(x), relay.Call(inner, [])))
    with pytest.raises(UnreadableFunctionError, match=r"^a function inside captures a, b$"):
        _read(body, x)
