"""What is said of BatchNorms that are not read, what is dead, and what leaves its block."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tvm
from relax.graphs import Expr, Make, pair
from relax.lifted import (
    LOOSE,
    Build,
    bias,
    conv,
    lifted,
    norm,
    part,
    read_by,
    shown,
    split,
    unknown,
    write,
)

from bnfx.passes.relax.compat import TensorType, name_of
from bnfx.passes.relax.expressions import Bindings
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.tvm.dataflow import ValueForm
from bnfx.passes.tvm.lift import lift
from bnfx.passes.tvm.tuples import is_first_part_alone

ANY_RANK = TensorType(dtype="float64", ndim=-1)
REASONS: dict[str, tuple[Build, list[str]]] = {
    "nothing": (lambda m: read_by(m, norm, part(0)), []),
    "its statistics": (lambda m: read_by(m, norm, part(0), part(1)), ["statistics are read too"]),
    "as a whole": (norm, ["statistics are read too"]),
    "its rank": (
        lambda m: m.emit(m.batch_norm_call(unknown(m, ANY_RANK), 8)[0]),
        ["its rank is not known"],
    ),
    "training": (
        lambda m: read_by(m, lambda m: norm(m, training=True), part(0)),
        ["training=True"],
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_a_batch_norm_is_not_read(name: str) -> None:
    build, reasons = REASONS[name]
    (node,) = (node for node in lifted(build).graph if node.sites)
    assert len(node.refusals) == len(reasons)
    for refusal, reason in zip(node.refusals, reasons, strict=True):
        assert reason in refusal.reason


def test_axes() -> None:
    for axis in (1, -3):
        flow = lifted(lambda m, axis=axis: read_by(m, lambda m: norm(m, axis=axis), part(0)))  # type: ignore[misc]
        (node,) = (node for node in flow.graph if node.sites)
        assert node.role.map.axes == (1,)  # type: ignore[union-attr]


def test_names_of_sites() -> None:
    """A BatchNorm is one, and so is an affine map; a sum of values is none."""

    def build(make: Make) -> Expr:
        y = make.call("multiply", make.batch_norm(conv(make), 8), make.constant(8, 1, 1))
        return make.call("add", y, conv(make))

    function = Make(0).module(build)["main"]
    flow = lift(Bindings(function.body, function.params), RELAX, "inside.")
    sites = [site for node in flow.graph for site in node.sites]
    assert [(site.name, site.kind) for site in sites] == [
        ("inside.batch_norm", "batch_norm"),
        ("inside.multiply", "affine"),
    ]


def _outside(build: Callable[[Make], Expr]) -> str:
    """What is lifted of a function that opens its blocks itself."""
    make = Make(0)
    with make.builder.function("main"):
        result = build(make)
        make.builder.emit_func_output(result, params=make.inputs)
    function = make.builder.get()["main"]
    return shown(lift(Bindings(function.body, function.params), RELAX))


def _apart(make: Make, same: bool) -> Expr:
    """A BatchNorm whose value is read in two blocks, or twice in one."""
    with make.builder.dataflow():
        whole = make.builder.emit_output(norm(make))
        y = make.builder.emit_output(make.emit(whole[0]))
        z = make.builder.emit_output(make.emit(whole[0])) if same else None
    return pair(y, make.emit(whole[0]) if z is None else z)


def test_a_sum_beside_the_result() -> None:
    """What the function returns is read by whoever calls it."""

    def build(make: Make) -> Expr:
        y = conv(make)
        write(make, bias(make, y))
        return y

    def parts(make: Make) -> Expr:
        whole = split(2)(make)
        for index in range(2):
            make.builder.match_cast(make.emit(whole[index]), TensorType((2, 4, 6, 6), "float64"))
        return whole

    assert "conv2d=Linear(x); add!@=Affine(conv2d)" in _outside(build)
    assert "split=Opaque(conv2d)" in _outside(parts)


def test_parts_that_stand_together() -> None:
    """Of several blocks, none may read the variable of another."""
    assert "batch_norm@=Affine(conv2d)" in _outside(lambda make: _apart(make, True))
    assert "batch_norm@=Opaque" in _outside(lambda make: _apart(make, False))


def test_a_tuple_of_which_nobody_reads_anything() -> None:
    """Its first part is not read alone; Relay has such, bound by ``let``."""
    whole: Any = SimpleNamespace(form=ValueForm.CALL, op="nn.batch_norm", readers=[])
    flow: Any = SimpleNamespace(result=None, stand_together=lambda values: True)
    assert not is_first_part_alone(whole, flow)
    first = SimpleNamespace(form=ValueForm.PART, index=0)
    whole.readers.append(first)
    assert is_first_part_alone(whole, flow)


def test_what_nobody_needs() -> None:
    """Neither does it count as a reader; what must run is needed."""

    def build(make: Make) -> Expr:
        y = conv(make)
        make.call("nn.relu", y)
        make.call("exp", make.builder.match_cast(make.call("sigmoid", y), LOOSE))
        return bias(make, y)

    function = Make(0).module(build)["main"]
    flow = Bindings(function.body, function.params)
    assert {value.op for value in flow.dead if value.op} == {"nn.relu", "exp"}
    (y,) = (value for value in flow.values if value.op == "nn.conv2d")
    assert [reader.op for reader in y.readers] == ["sigmoid", "add"]
    assert name_of(tvm.relax.Var("x", LOOSE)) == "x"
