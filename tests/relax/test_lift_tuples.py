"""What becomes of tuples and their parts in the neutral graph."""

from __future__ import annotations

import pytest
from relax.graphs import pair
from relax.lifted import (
    LOOSE_PAIR,
    Build,
    conv,
    itself,
    joined,
    lifted,
    moved,
    named,
    norm,
    open_split,
    part,
    read_by,
    renamed,
    shown,
    split,
    two,
    unknown,
    write,
)
from tvm import relax

CASES: dict[str, tuple[Build, str]] = {
    "a BatchNorm as a whole, whose value is written to": (
        lambda m: read_by(m, norm, lambda m, y: (write(m, m.emit(y[0])), y)[1]),
        "conv2d=Linear(x); constant_3!=Opaque(); constant_4!=Opaque(); "
        "batch_norm!@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar!=Opaque(batch_norm); tuplegetitem!=Opaque(dataflowvar); "
        "externfunc!=Opaque(); call_inplace_packed!=Opaque(externfunc, tuplegetitem); "
        "dataflowvar_1!=Opaque(dataflowvar); the result=Opaque(dataflowvar_1); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a BatchNorm's value, and what nobody needs": (
        lambda m: read_by(m, norm, lambda m, y: (m.call("nn.relu", m.emit(y[0])), m.emit(y[0]))[1]),
        "conv2d=Linear(x); batch_norm@=Affine(conv2d); what batch_norm was=Opaque(); "
        "tuplegetitem=Opaque(what batch_norm was); relu=Homogeneous(tuplegetitem); "
        "dataflowvar=Identity(batch_norm); the result=Opaque(dataflowvar)",
    ),
    "a BatchNorm that nobody needs": (
        lambda m: (norm(m), conv(m))[1],
        "what x was=Opaque(); conv2d=Linear(what x was); "
        "batch_norm@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar=Opaque(batch_norm); conv2d_1=Linear(x); "
        "dataflowvar_1=Identity(conv2d_1); the result=Opaque(dataflowvar_1)",
    ),
    "a BatchNorm in another tuple": (
        lambda m: read_by(m, norm, lambda m, y: pair(y, m.inputs[0])),
        "conv2d=Linear(x); "
        "batch_norm@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar=Opaque(batch_norm); tuple=Opaque(dataflowvar, x); "
        "the result=Opaque(tuple)",
    ),
    "a split as a whole, whose parts are written to": (
        lambda m: read_by(
            m, split(2), lambda m, y: (write(m, m.emit(y[0])), write(m, m.emit(y[1])), y)[2]
        ),
        "conv2d=Linear(x); split!=Opaque(conv2d); tuplegetitem!=Select(conv2d); "
        "externfunc!=Opaque(); call_inplace_packed!=Opaque(externfunc, tuplegetitem); "
        "tuplegetitem_1!=Select(conv2d); externfunc_1!=Opaque(); "
        "call_inplace_packed_1!=Opaque(externfunc_1, tuplegetitem_1); "
        "dataflowvar!=Opaque(split); the result=Opaque(dataflowvar); "
        "the run=Opaque~(call_inplace_packed, call_inplace_packed_1)",
    ),
    "a split with a part that is written to": (
        lambda m: read_by(m, split(2), part(0), lambda m, y: write(m, m.emit(y[1]))),
        "conv2d=Linear(x); split!=Opaque(conv2d); tuplegetitem!=Select(conv2d); "
        "tuplegetitem_1!=Select(conv2d); externfunc!=Opaque(); "
        "call_inplace_packed!=Opaque(externfunc, tuplegetitem_1); "
        "tuple!=Opaque(tuplegetitem, call_inplace_packed); the result=Opaque(tuple); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a split of types that say less": (
        lambda m: m.emit(named(m, relax.op.split(conv(m), 2, 1), LOOSE_PAIR)[1]),
        "conv2d=Linear(x); split=Opaque(conv2d); tuplegetitem=Opaque(split); "
        "dataflowvar=Opaque(tuplegetitem); the result=Opaque(dataflowvar)",
    ),
    "read, and joined": (
        lambda m: read_by(m, two, part(0), joined),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque(conv2d, relu); "
        "tuplegetitem=Opaque(tuple); concat=Concat(conv2d, relu); "
        "tuple_1=Opaque(tuplegetitem, concat); the result=Opaque(tuple_1)",
    ),
    "a BatchNorm": (
        lambda m: read_by(m, norm, part(0)),
        "conv2d=Linear(x); batch_norm@=Affine(conv2d); dataflowvar=Identity(batch_norm); "
        "the result=Opaque(dataflowvar)",
    ),
    "a BatchNorm as a whole": (
        norm,
        "conv2d=Linear(x); "
        "batch_norm@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar=Opaque(batch_norm); dataflowvar_1=Opaque(dataflowvar); "
        "the result=Opaque(dataflowvar_1)",
    ),
    "a BatchNorm's value, twice": (
        lambda m: read_by(m, norm, part(0), part(0)),
        "conv2d=Linear(x); batch_norm@=Affine(conv2d); "
        "tuple=Opaque(batch_norm, batch_norm); the result=Opaque(tuple)",
    ),
    "a BatchNorm's statistics": (
        lambda m: read_by(m, norm, part(0), part(1)),
        "conv2d=Linear(x); "
        "batch_norm@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar=Opaque(batch_norm); tuplegetitem=Opaque(dataflowvar); "
        "tuplegetitem_1=Opaque(dataflowvar); tuple=Opaque(tuplegetitem, tuplegetitem_1); "
        "the result=Opaque(tuple)",
    ),
    "a BatchNorm by another name": (
        lambda m: read_by(m, lambda m: renamed(m, norm(m)), part(0)),
        "conv2d=Linear(x); batch_norm@=Affine(conv2d); dataflowvar=Identity(batch_norm); "
        "the result=Opaque(dataflowvar)",
    ),
    "a BatchNorm that trains": (
        lambda m: read_by(m, lambda m: norm(m, training=True), part(0)),
        "conv2d=Linear(x); "
        "batch_norm@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "dataflowvar=Identity(batch_norm); the result=Opaque(dataflowvar)",
    ),
    "a BatchNorm that is written to": (
        lambda m: read_by(m, norm, lambda m, y: write(m, m.emit(y[0]))),
        "conv2d=Linear(x); constant_3!=Opaque(); constant_4!=Opaque(); "
        "batch_norm!@=Opaque(conv2d, constant_1, constant_2, constant_3, constant_4); "
        "externfunc!=Opaque(); call_inplace_packed!=Opaque(externfunc, batch_norm); "
        "dataflowvar!=Identity(call_inplace_packed); the result=Opaque(dataflowvar); "
        "the run=Opaque~(call_inplace_packed)",
    ),
    "a dropout": (
        lambda m: read_by(m, lambda m: moved(m, "nn.dropout"), part(0)),
        "conv2d=Linear(x); dropout=Identity(conv2d); dataflowvar=Identity(dropout); "
        "the result=Opaque(dataflowvar)",
    ),
    "a dropout's mask": (
        lambda m: read_by(m, lambda m: moved(m, "nn.dropout"), part(0), part(1)),
        "conv2d=Linear(x); dropout=Opaque(conv2d); tuplegetitem=Opaque(dropout); "
        "tuplegetitem_1=Opaque(dropout); tuple=Opaque(tuplegetitem, tuplegetitem_1); "
        "the result=Opaque(tuple)",
    ),
    "a split": (
        lambda m: read_by(m, split(2), part(0), part(1)),
        "conv2d=Linear(x); split=Opaque~(conv2d); tuplegetitem=Select(conv2d); "
        "tuplegetitem_1=Select(conv2d); tuple=Opaque(tuplegetitem, tuplegetitem_1); "
        "the result=Opaque(tuple)",
    ),
    "one part of a split": (
        lambda m: read_by(m, split([2, 5], -3), part(1)),
        "conv2d=Linear(x); split=Opaque~(conv2d); tuplegetitem=Select(conv2d); "
        "dataflowvar=Identity(tuplegetitem); the result=Opaque(dataflowvar)",
    ),
    "a split, part by part and whole": (
        lambda m: read_by(m, split(2), part(0), itself),
        "conv2d=Linear(x); split=Opaque(conv2d); tuplegetitem=Select(conv2d); "
        "tuple=Opaque(tuplegetitem, split); the result=Opaque(tuple)",
    ),
    "a split as a whole": (
        split(2),
        "conv2d=Linear(x); split=Opaque(conv2d); dataflowvar=Opaque(split); "
        "the result=Opaque(dataflowvar)",
    ),
    "a split with parts that overlap": (
        lambda m: read_by(m, split([5, 2]), part(1)),
        "conv2d=Linear(x); split=Opaque(conv2d); tuplegetitem=Opaque(split); "
        "dataflowvar=Identity(tuplegetitem); the result=Opaque(dataflowvar)",
    ),
    "a split of an open batch": (
        lambda m: open_split(m, 1, 2),
        "split=Opaque~(x); tuplegetitem=Select(x); dataflowvar=Identity(tuplegetitem); "
        "the result=Opaque(dataflowvar)",
    ),
    "a split of an open axis": (
        lambda m: open_split(m, 0, [2, 4]),
        "split=Opaque(x); tuplegetitem=Opaque(split); "
        "dataflowvar=Identity(tuplegetitem); the result=Opaque(dataflowvar)",
    ),
    "a split of unknown sizes": (
        lambda m: m.emit(m.call("split", unknown(m), 2, 1)[1]),
        "split=Opaque(x); tuplegetitem=Opaque(split); dataflowvar=Opaque(tuplegetitem); "
        "the result=Opaque(dataflowvar)",
    ),
    "a part of a tuple": (
        lambda m: read_by(m, two, part(0)),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque(conv2d, relu); "
        "tuplegetitem=Opaque(tuple); dataflowvar=Identity(tuplegetitem); "
        "the result=Opaque(dataflowvar)",
    ),
    "joined": (
        lambda m: read_by(m, two, joined),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque~(conv2d, relu); "
        "concat=Concat(conv2d, relu); dataflowvar=Identity(concat); "
        "the result=Opaque(dataflowvar)",
    ),
    "joined twice": (
        lambda m: read_by(m, two, joined, lambda m, y: joined(m, y, 2)),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque~(conv2d, relu); "
        "concat=Concat(conv2d, relu); concat_1=Concat(conv2d, relu); "
        "tuple_1=Opaque(concat, concat_1); the result=Opaque(tuple_1)",
    ),
    "joined, and read": (
        lambda m: read_by(m, two, joined, part(0)),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque(conv2d, relu); "
        "concat=Concat(conv2d, relu); tuplegetitem=Opaque(tuple); "
        "tuple_1=Opaque(concat, tuplegetitem); the result=Opaque(tuple_1)",
    ),
    "joined, and returned": (
        lambda m: read_by(m, two, joined, itself),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque(conv2d, relu); "
        "concat=Concat(conv2d, relu); tuple_1=Opaque(concat, tuple); "
        "the result=Opaque(tuple_1)",
    ),
    "joined of a split": (
        lambda m: read_by(m, split(2), joined),
        "conv2d=Linear(x); split=Opaque(conv2d); concat=Opaque(split); "
        "dataflowvar=Identity(concat); the result=Opaque(dataflowvar)",
    ),
    "joined of another name": (
        lambda m: read_by(m, lambda m: renamed(m, two(m)), joined),
        "conv2d=Linear(x); relu=Homogeneous(conv2d); tuple=Opaque(conv2d, relu); "
        "dataflowvar=Opaque(tuple); concat=Opaque(dataflowvar); "
        "dataflowvar_1=Identity(concat); the result=Opaque(dataflowvar_1)",
    ),
    "joined of unknown sizes": (
        lambda m: m.call("concat", [conv(m), unknown(m)], axis=1),
        "conv2d=Linear(x); tuple=Opaque(conv2d, x_1); concat=Opaque(tuple); "
        "dataflowvar=Opaque(concat); the result=Opaque(dataflowvar)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_neutral_graph(name: str) -> None:
    build, expected = CASES[name]
    assert shown(lifted(build)) == expected
