"""Which block each call of a folded function is written to, and who sees its variable."""

from __future__ import annotations

import pytest
from relax.graphs import Expr, Make, pair
from relax.lifted import Build, bias, conv, write
from relax.written import folded_blocks


def _outside(make: Make) -> Expr:
    return make.call("nn.relu", make.batch_norm(conv(make), 8))


def _across(make: Make) -> Expr:
    """The convolution in one block, its BatchNorm in another."""
    with make.builder.dataflow():
        y = make.builder.emit_output(conv(make))
    y = make.call("sin", bias(make, y))
    with make.builder.dataflow():
        y = make.conv(y, 8, 8, 1, 1)
        y = make.builder.emit_output(y)
    y = make.call("negative", make.batch_norm(y, 8))
    return make.call("exp", y)


def _two_outputs(make: Make) -> Expr:
    with make.builder.dataflow():
        y = make.builder.emit_output(make.batch_norm(conv(make), 8))
        z = make.builder.emit_output(make.call("nn.relu", y))
    return pair(y, z)


def _tuple_across(make: Make) -> Expr:
    with make.builder.dataflow():
        whole = make.builder.emit_output(make.batch_norm_call(conv(make), 8))
    y = make.call("sin", make.inputs[0])
    with make.builder.dataflow():
        z = make.builder.emit_output(make.call("nn.relu", make.emit(whole[0])))
    return pair(y, z)


def _kept_outside(make: Make) -> Expr:
    """What stays, with its bias, beside what is folded."""
    y = make.call("sin", bias(make))
    z = make.input(2, 8, 6, 6, name="z")
    return pair(y, make.batch_norm(make.conv(z, 8, 8, 1, 1), 8))


def _kept_across(make: Make) -> Expr:
    """What stays is read in its block and outside of it, each time by a variable of its own."""
    with make.builder.dataflow():
        whole = make.emit(make.batch_norm_call(conv(make), 8, training=True))
        outside = make.builder.emit_output(whole[0])
        inside = make.call("nn.relu", make.emit(whole[0]))
        z = make.conv(make.input(2, 8, 6, 6, name="z"), 8, 8, 1, 1)
        z = make.builder.emit_output(make.batch_norm(z, 8))
        inside = make.builder.emit_output(inside)
    return pair(outside, inside, z)


def _written(make: Make) -> Expr:
    """A function of the user's writes between a convolution and its BatchNorm."""
    y = conv(make)
    write(make, make.call("exp", make.inputs[0]))
    return make.batch_norm(y, 8)


BLOCKS: dict[str, tuple[Build, str]] = {
    "outside": (_outside, "(lv!=conv2d(x (8,8,1,1)); gv2!=add(lv (1,8,1,1)); gv3!=relu(gv2)) gv3"),
    "across": (
        _across,
        "[lv=conv2d(x (8,8,1,1)); lv=add(lv (1,8,1,1)); "
        "gv!=DataflowVar(lv)] (gv2!=sin(gv)) [lv=conv2d(gv2 (8,8,1,1)); "
        "lv1=add(lv (1,8,1,1)); gv3!=DataflowVar(lv1)] (gv7!=exp(gv3)) gv7",
    ),
    "two outputs": (
        _two_outputs,
        "[lv=conv2d(x (8,8,1,1)); lv2=add(lv (1,8,1,1)); gv!=DataflowVar(lv2); "
        "lv3=relu(gv); gv1!=DataflowVar(lv3)] Tuple",
    ),
    "a tuple across": (
        _tuple_across,
        "[lv=conv2d(x (8,8,1,1)); lv2!=add(lv (1,8,1,1))] (gv1!=sin(x)) [lv3=relu(lv2); "
        "gv2!=DataflowVar(lv3)] Tuple",
    ),
    "written": (
        _written,
        "(lv!=conv2d(x (8,8,1,1)); gv4!=add(lv (1,8,1,1)); gv1!=exp(x); "
        "gv2!=call_inplace_packed(ExternFunc gv1)) gv4",
    ),
    "kept, outside": (
        _kept_outside,
        "(gv!=conv2d(x (8,8,1,1)); gv1!=add(gv (8,1,1)); gv2!=sin(gv1); "
        "lv!=conv2d(z (8,8,1,1)); gv5!=add(lv (1,8,1,1))) Tuple",
    ),
    "kept, across": (
        _kept_across,
        "[lv=conv2d(x (8,8,1,1)); lv1=batch_norm(lv (8,) (8,) (8,) (8,)); "
        "lv2=DataflowVar(lv1); gv!=TupleGetItem(lv2); lv3=TupleGetItem(lv2); "
        "lv4=relu(gv); lv=conv2d(z (8,8,1,1)); lv7=add(lv (1,8,1,1)); "
        "gv1!=DataflowVar(lv7); gv2!=DataflowVar(lv4)] Tuple",
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    build, expected = BLOCKS[name]
    assert folded_blocks(build) == expected
