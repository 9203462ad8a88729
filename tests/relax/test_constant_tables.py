"""What is computed from constants alone: as TVM computes it, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from relax.graphs import Expr, Make, pair
from relax.lifted import Build, lifted, write

from bnfx import Code
from bnfx.passes.algebra import Source
from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Refusal
from bnfx.passes.relax.compat import constant, type_of
from bnfx.passes.relax.expressions import Bindings
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.tvm.dataflow import Value
from bnfx.passes.tvm.dialect import Computation
from bnfx.passes.tvm.lift import LiftedFlow, lift

A = np.array([[1.5, -2.0, 0.25], [4.0, 3.0, -0.5]], "float32")
P, ROW = np.abs(A), np.array([2.0, 0.5, -1.0], "float32")
WHOLE = np.array([[7, -2, 3], [4, 5, 6]], "int32")


def _call(op: str, *arrays: Any, **options: Any) -> Build:
    def build(make: Make) -> Expr:
        args = [constant(a) if isinstance(a, np.ndarray) else a for a in arrays]
        return make.call(op, *args, **options)

    return build


def _found(build: Build) -> tuple[LiftedFlow, Value]:
    """The value that the result is another name for."""
    flow = lifted(build)
    return flow, flow.flow.result.args[0]


COMPUTED: dict[str, tuple[Build, Any]] = {
    "add": (_call("add", A, ROW), A + ROW),
    "subtract": (_call("subtract", A, ROW), A - ROW),
    "multiply": (_call("multiply", A, ROW), A * ROW),
    "divide": (_call("divide", A, ROW), A / ROW),
    "power": (_call("power", P, ROW), P**ROW),
    "negative": (_call("negative", A), -A),
    "sqrt": (_call("sqrt", P), np.sqrt(P)),
    "rsqrt": (_call("rsqrt", P), (1 / np.sqrt(P)).astype("float32")),
    "exp": (_call("exp", A), np.exp(A)),
    "reshape": (_call("reshape", A, (3, 2)), A.reshape(3, 2)),
    "flatten": (_call("flatten", A), A.reshape(6)),
    "expand_dims": (_call("expand_dims", A, [0, -1]), A.reshape(1, 2, 3, 1)),
    "permute_dims": (_call("permute_dims", A), A.T),
    "permute_dims by axes": (
        _call("permute_dims", A.reshape(1, 2, 3), (2, 0, 1)),
        A.reshape(1, 2, 3).transpose(2, 0, 1),
    ),
    "a cast": (_call("astype", A, "float16"), A.astype("float16")),
    "a cast of whole numbers": (_call("astype", WHOLE, "float32"), WHOLE.astype("float32")),
    "broadcast_to": (_call("broadcast_to", ROW, (2, 3)), np.stack([ROW, ROW])),
    "zeros": (_call("zeros", (2, 3), "float16"), np.zeros((2, 3), "float16")),
    "ones": (_call("ones", (2, 3), "float64"), np.ones((2, 3))),
    "full": (
        _call("full", (2, 3), np.array(2.5, "float32"), "float32"),
        np.full((2, 3), 2.5, "float32"),
    ),
    "whole numbers": (_call("add", WHOLE, WHOLE), WHOLE + WHOLE),
    "an infinity": (_call("divide", A, np.zeros(3, "float32")), A * np.inf),
    "one number": (_call("add", np.array(1.5), np.array(2.0)), np.array(3.5)),
    "another name": (lambda m: m.emit(m.call("negative", constant(A))), -A),
    # What NumPy knows otherwise, or not.
    "whole numbers, divided": (_call("divide", WHOLE, WHOLE), None),
    "whole numbers, to a negative power": (_call("power", WHOLE, WHOLE), None),
    "a cast to whole numbers": (_call("astype", A, "int32"), None),
    "a cast to bfloat16": (_call("astype", A, "bfloat16"), None),
    "of what cannot be computed": (
        lambda m: m.call("astype", m.call("astype", constant(A), "int32"), "float32"),
        None,
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_numbers(name: str) -> None:
    build, expected = COMPUTED[name]
    flow, value = _found(build)
    assert value in flow.constants
    assert isinstance(flow.nodes[value].role, Opaque)  # no map that might be folded
    found = flow.constants.value(value)
    if expected is None:
        assert found is None
        assert flow.constants.literal(value) is None
        return
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)
    assert flow.constants.value(value) is found  # computed once


def open_size(make: Make) -> Any:
    return type_of(make.input(tvm.tirx.Var("n", "int64"))).shape.values[0]


OTHERS: dict[str, Build] = {
    "an input": lambda m: m.call("add", m.input(3), m.constant(3)),
    "another op": lambda m: m.call("sigmoid", m.constant(3)),
    "of an open size": lambda m: m.call("broadcast_to", m.constant(3), (open_size(m), 3)),
    "a tuple": lambda m: m.emit(pair(m.constant(3), m.constant(3))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_constant(name: str) -> None:
    flow, value = _found(OTHERS[name])
    assert value not in flow.constants
    assert flow.constants.value(value) is None
    assert flow.constants.literal(value) is None
    found = flow.constants.source(value, "node.weight")
    assert isinstance(found, Refusal)
    assert found.reason == "its weight is computed, not a constant"


def _wrong(error: type[Exception]) -> Any:
    def run(*operands: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    "run",
    [
        lambda value, shape, dtype, x: None,
        lambda value, shape, dtype, x: x[:1],
        lambda value, shape, dtype, x: x.astype("float64"),
        _wrong(TypeError),
        _wrong(ValueError),
    ],
)
def test_what_is_not_computed_as_its_type_says(run: Any) -> None:
    dialect = replace(RELAX, computations={"negative": Computation(run)})
    function = Make(0).module(_call("negative", A))["main"]
    flow = lift(Bindings(function.body, function.params), dialect)
    value = flow.flow.result.args[0]
    assert value in flow.constants
    assert flow.constants.value(value) is None


def test_what_is_written_to_is_no_constant() -> None:
    def build(make: Make) -> Expr:
        y = make.call("negative", make.constant(3))
        write(make, y)
        return y

    flow, value = _found(build)
    assert value not in flow.constants


def test_a_parameter_is_named() -> None:
    flow, value = _found(lambda m: m.call("add", m.input(3, name="gamma"), m.constant(3)))
    found = flow.constants.source(value.args[0], "weight")
    assert isinstance(found, Refusal)
    assert found == Refusal(
        Code.NOT_A_PARAMETER, "its weight is the parameter gamma, not a constant"
    )


def test_literals_take_no_more_memory() -> None:
    """In place of what computes them; a constant is its own."""

    def literal(build: Build) -> Any:
        flow, value = _found(build)
        return flow.constants.literal(value)

    assert literal(_call("add", A, A)) is not None
    assert literal(_call("reshape", A, (3, 2))) is not None
    assert literal(_call("broadcast_to", ROW, (1, 3))) is not None
    assert literal(_call("broadcast_to", ROW, (2, 3))) is None
    assert literal(_call("add", ROW, ROW.reshape(3, 1))) is None
    assert literal(_call("zeros", (1,), "float32")) is None
    flow, value = _found(_call("negative", A))
    assert flow.constants.literal(value.args[0]) is None


def _sources(*arrays: Any) -> list[Any]:
    flow = lifted(lambda m: pair(*map(constant, arrays)))
    values = flow.flow.result.args
    return [flow.constants.source(value, "node.weight") for value in values]


def test_sources() -> None:
    first, second = _sources(A, ROW)
    assert first == Source("node.weight", (2, 3), "float32")
    assert second.name != first.name
    for dtype in ("float16", "float64"):
        (source,) = _sources(A.astype(dtype))
        assert source.dtype == dtype
    (refusal,) = _sources(WHOLE)
    assert refusal == Refusal(Code.UNSUPPORTED_DTYPE, "its weight is int32, not real")
    flow, value = _found(_call("astype", A, "bfloat16"))
    refusal = flow.constants.source(value, "node.weight")
    assert isinstance(refusal, Refusal)
    assert "is bfloat16, in which NumPy computes nothing" in refusal.reason
    flow, value = _found(COMPUTED["of what cannot be computed"][0])
    refusal = flow.constants.source(value, "node.weight")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "its weight is float32, and NumPy cannot compute it"


def test_a_source_is_named_once() -> None:
    flow, value = _found(_call("negative", A))
    source = flow.constants.source(value, "one.weight")
    assert flow.constants.source(value, "other.weight") is source
    assert isinstance(source, Source)
    values = flow.constants.numbers()
    assert np.array_equal(values.exact(source), -A)


def test_long_chains_need_no_recursion() -> None:
    def build(make: Make) -> Expr:
        y = constant(ROW)
        for _ in range(3000):
            y = make.call("negative", y)
        return make.call("add", y, y)

    flow, value = _found(build)
    assert np.array_equal(flow.constants.value(value), 2 * ROW)  # type: ignore[arg-type]
