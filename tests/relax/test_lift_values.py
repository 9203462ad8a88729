"""What becomes of single values in the neutral graph, and of biases."""

from __future__ import annotations

import pytest
from relax.lifted import (
    LOOSE,
    TYPE,
    Build,
    bias,
    cast,
    conv,
    itself,
    lifted,
    moved,
    named,
    read_by,
    renamed,
    shown,
    unknown,
    unneeded,
    write,
    written_constant,
)
from tvm import relax

from bnfx.passes.relax.compat import TensorType

CASES: dict[str, tuple[Build, str]] = {
    "a bias": (
        bias,
        "conv2d=Linear+b(x); dataflowvar=Identity(conv2d); the result=Opaque(dataflowvar)",
    ),
    "a bias on the left": (
        lambda m: m.call("add", m.constant(8, 1, 1), conv(m)),
        "conv2d=Linear+b(x); dataflowvar=Identity(conv2d); the result=Opaque(dataflowvar)",
    ),
    "a difference": (
        lambda m: m.call("subtract", conv(m), m.constant(8, 1, 1)),
        "conv2d=Linear(x); subtract@=Affine(conv2d); dataflowvar=Identity(subtract); "
        "the result=Opaque(dataflowvar)",
    ),
    "two biases": (
        lambda m: bias(m, bias(m)),
        "conv2d=Linear+b(x); add@=Affine(conv2d); dataflowvar=Identity(add); "
        "the result=Opaque(dataflowvar)",
    ),
    "behind a ReLU": (
        lambda m: bias(m, moved(m, "nn.relu")),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); add@=Affine(relu); "
        "dataflowvar=Identity(add); the result=Opaque(dataflowvar)",
    ),
    "read by others": (
        lambda m: read_by(m, conv, bias, itself),
        "conv2d=Linear(x); add@=Affine(conv2d); tuple=Opaque(add, conv2d); "
        "the result=Opaque(tuple)",
    ),
    "read by others alike": (
        lambda m: read_by(m, conv, bias, lambda m, y: m.call("nn.relu", y)),
        "conv2d=Linear(x); add@=Affine(conv2d); relu=Homogeneous(conv2d); "
        "tuple=Opaque(add, relu); the result=Opaque(tuple)",
    ),
    "to itself": (
        lambda m: read_by(m, conv, lambda m, y: m.call("add", y, y)),
        "conv2d=Linear(x); add=Add(conv2d, conv2d); dataflowvar=Identity(add); "
        "the result=Opaque(dataflowvar)",
    ),
    "a bias that is free": (
        lambda m: read_by(m, conv, lambda m, y: m.call("add", y, m.input(8, 1, 1, name="b"))),
        "conv2d=Linear(x); add=Opaque(conv2d, b); dataflowvar=Identity(add); "
        "the result=Opaque(dataflowvar)",
    ),
    "a bias of another axis": (
        lambda m: moved(m, "add", m.constant(6)),
        "conv2d=Linear(x); add@=Affine(conv2d); dataflowvar=Identity(add); "
        "the result=Opaque(dataflowvar)",
    ),
    "a bias of a type that says less": (
        lambda m: named(m, relax.op.add(conv(m), m.constant(8, 1, 1))),
        "conv2d=Linear(x); add=Opaque(conv2d, constant_1); dataflowvar=Opaque(add); "
        "the result=Opaque(dataflowvar)",
    ),
    "a convolution that is written to": (
        lambda m: read_by(m, conv, bias, write),
        "conv2d!=Linear(x); add!@=Affine(conv2d); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, conv2d); "
        "tuple!=Opaque(add, call_inplace_packed); the result=Opaque(tuple); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a convolution that is written to, and a bias alone": (
        lambda m: read_by(m, lambda m: named(m, conv(m), TYPE), write),
        "conv2d!=Linear(x); dataflowvar!=Identity(conv2d); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, dataflowvar); "
        "dataflowvar_1!=Identity(call_inplace_packed); the result=Opaque(dataflowvar_1); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a sum that is written to": (
        lambda m: read_by(m, bias, write),
        "conv2d!=Linear+b(x); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, conv2d); "
        "dataflowvar!=Identity(call_inplace_packed); the result=Opaque(dataflowvar); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a bias that nobody needs": (
        lambda m: read_by(m, conv, lambda m, y: (bias(m, y), y)[1]),
        "conv2d=Linear(x); what conv2d was=Opaque(); add@=Affine(what conv2d was); "
        "dataflowvar=Identity(conv2d); the result=Opaque(dataflowvar)",
    ),
    "returned, and a bias that is written to": (
        lambda m: read_by(m, conv, lambda m, y: (write(m, bias(m, y)), y)[1]),
        "conv2d=Linear(x); add!@=Affine(conv2d); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, add); dataflowvar=Identity(conv2d); "
        "the result=Opaque(dataflowvar); the run=Opaque~(call_inplace_packed)",
    ),
    "a bias beside what nobody needs": (
        lambda m: read_by(m, conv, lambda m, y: (m.call("nn.relu", y), bias(m, y))[1]),
        "conv2d=Linear+b(x); what conv2d was=Opaque(); "
        "relu=Homogeneous(what conv2d was); dataflowvar=Identity(conv2d); "
        "the result=Opaque(dataflowvar)",
    ),
    "another name": (
        lambda m: renamed(m, conv(m)),
        "conv2d=Linear(x); dataflowvar=Identity(conv2d); "
        "dataflowvar_1=Identity(dataflowvar); the result=Opaque(dataflowvar_1)",
    ),
    "a name that says less": (
        lambda m: named(m, conv(m)),
        "conv2d=Linear(x); dataflowvar=Opaque(conv2d); "
        "dataflowvar_1=Opaque(dataflowvar); the result=Opaque(dataflowvar_1)",
    ),
    "a name of what is not known": (
        lambda m: renamed(m, unknown(m)),
        "var=Opaque(x); dataflowvar=Opaque(var); the result=Opaque(dataflowvar)",
    ),
    "a cast": (
        lambda m: read_by(m, conv, cast),
        "conv2d=Linear(x); dataflowvar=Identity(conv2d); "
        "dataflowvar_1=Identity(dataflowvar); the result=Opaque(dataflowvar_1); "
        "the run=Opaque~(dataflowvar)",
    ),
    "a cast that says less": (
        lambda m: read_by(m, conv, lambda m, y: cast(m, y, LOOSE)),
        "conv2d=Linear(x); dataflowvar=Opaque(conv2d); "
        "dataflowvar_1=Opaque(dataflowvar); the result=Opaque(dataflowvar_1); "
        "the run=Opaque~(dataflowvar)",
    ),
    "a cast that says more": (
        lambda m: read_by(m, unknown, cast),
        "var=Opaque(x); dataflowvar=Identity(var); the result=Opaque(dataflowvar); "
        "the run=Opaque~(var)",
    ),
    "a constant that is cast": (
        lambda m: moved(m, "add", cast(m, m.constant(8, 1, 1), TensorType((8, 1, 1), "float64"))),
        "conv2d=Linear(x); add=Opaque(conv2d, constant); dataflowvar=Identity(add); "
        "the result=Opaque(dataflowvar); the run=Opaque~(constant)",
    ),
    "a constant that is written to": (
        written_constant,
        "multiply!=Opaque(constant, constant_1); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, multiply); conv2d=Linear(x); "
        "add!=Add(conv2d, multiply); tuple!=Opaque(add, call_inplace_packed); "
        "the result=Opaque(tuple); the run=Opaque~(call_inplace_packed)",
    ),
    "what nobody needs": (
        unneeded,
        "conv2d=Linear(x); what conv2d was=Opaque(); sigmoid=Opaque(what conv2d was); "
        "add@=Affine(sigmoid); add_1@=Affine(what conv2d was); what x was=Opaque(); "
        "conv2d_1=Linear+b(what x was); relu=Homogeneous(conv2d); "
        "dataflowvar=Identity(relu); the result=Opaque(dataflowvar)",
    ),
    "the sizes of a value": (
        lambda m: read_by(
            m, conv, lambda m, y: m.call("zeros_like", y), lambda m, y: m.call("shape_of", y)
        ),
        "conv2d=Linear(x); zeros_like=Opaque~(conv2d); shape_of=Opaque~(conv2d); "
        "tuple=Opaque(zeros_like, shape_of); the result=Opaque(tuple)",
    ),
    "what is not known": (
        lambda m: moved(m, "sigmoid"),
        "conv2d=Linear(x); sigmoid=Opaque(conv2d); dataflowvar=Identity(sigmoid); "
        "the result=Opaque(dataflowvar)",
    ),
    "a value of unknown rank": (
        lambda m: m.call("nn.relu", unknown(m, TensorType(dtype="float64", ndim=-1))),
        "relu=Opaque(x); dataflowvar=Opaque(relu); the result=Opaque(dataflowvar)",
    ),
    "a BatchNorm of unknown rank": (
        lambda m: m.emit(m.batch_norm_call(unknown(m, TensorType(dtype="float64", ndim=-1)), 8)[0]),
        "batch_norm@=Opaque(x, constant, constant_1, constant_2, constant_3); "
        "dataflowvar=Opaque(batch_norm); the result=Opaque(dataflowvar)",
    ),
    "a weight that is computed": (
        lambda m: m.call(
            "nn.conv2d", m.input(2, 8, 6, 6), m.call("sigmoid", m.constant(8, 8, 1, 1))
        ),
        "sigmoid=Opaque(constant); conv2d=Opaque(x, sigmoid); "
        "dataflowvar=Identity(conv2d); the result=Opaque(dataflowvar)",
    ),
    "what is computed of constants": (
        lambda m: m.call("add", m.call("multiply", m.constant(3), m.constant(3)), m.constant(3)),
        "the result=Opaque(dataflowvar)",
    ),
    "a cast to a dtype": (
        lambda m: cast(m, unknown(m, TensorType((2, 8, 6, 6), ""))),
        "var=Opaque(x); dataflowvar=Identity(var); the result=Opaque(dataflowvar); "
        "the run=Opaque~(var)",
    ),
    "a constant that is not known": (
        lambda m: moved(m, "add", m.call("sigmoid", m.constant(8, 1, 1))),
        "sigmoid=Opaque(constant); conv2d=Linear(x); add=Opaque(conv2d, sigmoid); "
        "dataflowvar=Identity(add); the result=Opaque(dataflowvar)",
    ),
    "a constant of bfloat16": (
        lambda m: m.call(
            "add",
            m.input(2, 8, 6, 6, dtype="bfloat16"),
            m.call("astype", m.constant(8, 1, 1), "bfloat16"),
        ),
        "add=Opaque(x, astype); dataflowvar=Identity(add); the result=Opaque(dataflowvar)",
    ),
    "a name of a constant that nobody needs": (
        lambda m: read_by(
            m,
            lambda m: m.call("negative", m.constant(3)),
            lambda m, y: (m.call("sigmoid", y), m.call("sin", y), m.call("exp", y))[2],
        ),
        "what negative was=Opaque(); sigmoid=Opaque(what negative was); "
        "sin=Opaque(what negative was); the result=Opaque(dataflowvar)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_neutral_graph(name: str) -> None:
    build, expected = CASES[name]
    assert shown(lifted(build)) == expected
