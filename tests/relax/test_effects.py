"""What something may write to while a function runs, and what must run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax

from bnfx.passes.relax.compat import TensorType, constant, name_of
from bnfx.passes.relax.expressions import Bindings

TYPE = TensorType((4, 4), "float32")
# Older versions call types otherwise.
_NAMES = inspect.signature(relax.op.call_pure_packed).parameters
TYPES: Any = {"ty_args" if "ty_args" in _NAMES else "sinfo_args": [TYPE]}
Body = Callable[[Any, Any, Any, Any], Any]


def _flow(body: Body, dataflow: bool = False) -> Bindings:
    builder = relax.BlockBuilder()
    inputs = [relax.Var(name, TYPE) for name in "xyz"]
    with builder.function("main", inputs):
        if dataflow:
            with builder.dataflow():
                result = builder.emit_output(body(builder, *inputs))
        else:
            result = body(builder, *inputs)
        builder.emit_func_output(result)
    function = builder.get()["main"]
    return Bindings(function.body, function.params)


def _pinned(flow: Bindings) -> str:
    names = set()
    for value in flow.pinned:
        binding = getattr(value, "binding", None)
        names.add(name_of(binding.var) if binding is not None else value.name)
    return " ".join(sorted(names - {"", "written"}))


def _write(builder: Any, x: Any, name: str = "written") -> Any:
    """An unknown function of the user's, which may do anything to its argument."""
    return builder.emit(relax.Call(relax.ExternFunc("own"), [x], None, [TYPE]), name)


def _norm(builder: Any, x: Any, mean: Any, var: Any) -> Any:
    """BatchNorm in inference, a tuple: it hands its statistics on."""
    one = constant(np.ones(4, "float32"))
    return builder.emit(relax.op.nn.batch_norm(x, one, one, mean, var, axis=1), "norm")


def _of_norm(builder: Any, x: Any, index: int) -> Any:
    """A part of one whose mean is computed is written to."""
    mean, var = (builder.emit(relax.op.sum(x, 0), name) for name in ("mean", "var"))
    part = relax.TupleGetItem(_norm(builder, builder.emit(relax.op.exp(x), "a"), mean, var), index)
    return _write(builder, builder.emit(part, "part"))


PINNED: dict[str, tuple[Body, str]] = {
    "nothing": (lambda b, x, y, z: b.emit(relax.op.add(x, y), "a"), ""),
    # Parameters may share memory, so all are written to where one is.
    "a parameter": (lambda b, x, y, z: _write(b, x), "x y z"),
    "a parameter, beside others": (
        lambda b, x, y, z: (b.emit(relax.op.exp(z), "a"), _write(b, x))[0],
        "x y z",
    ),
    "a cast looks at sizes": (lambda b, x, y, z: b.match_cast(x, TYPE, "cast"), ""),
    "a new value": (lambda b, x, y, z: _write(b, b.emit(relax.op.add(x, y), "a")), "a"),
    "a view": (
        lambda b, x, y, z: _write(b, b.emit(relax.op.reshape(x, (16,)), "view")),
        "view x y z",
    ),
    "a view of a new value": (
        lambda b, x, y, z: (
            lambda a: (_write(b, a), b.emit(relax.op.reshape(a, (16,)), "view"))[1]
        )(b.emit(relax.op.add(x, y), "a")),
        "a view",
    ),
    "no view of it": (
        lambda b, x, y, z: (lambda a: (_write(b, a), b.emit(relax.op.exp(a), "copy"))[1])(
            b.emit(relax.op.add(x, y), "a")
        ),
        "a",
    ),
    "another name": (
        lambda b, x, y, z: _write(b, b.emit(b.emit(relax.op.add(x, y), "a"), "name")),
        "a name",
    ),
    "a part": (
        lambda b, x, y, z: _write(
            b, b.emit(relax.TupleGetItem(b.emit(relax.Tuple([x, y]), "both"), 0), "part")
        ),
        "both part x y z",
    ),
    # What BatchNorm computes is its own, its statistics are those it was given.
    "a BatchNorm's value": (lambda b, x, y, z: _of_norm(b, x, 0), "part"),
    "a BatchNorm's mean": (lambda b, x, y, z: _of_norm(b, x, 1), "mean norm part var"),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_is_written_to(name: str) -> None:
    body, expected = PINNED[name]
    assert _pinned(_flow(body)) == expected


def _must_run(flow: Bindings) -> str:
    found = [value for value in flow.values if flow.must_run(value)]
    return " ".join(name_of(value.binding.var) for value in found)  # type: ignore[attr-defined]


def test_what_must_run() -> None:
    """What may have an effect, and what checks sizes; not what computes a value alone."""
    pure = relax.op.call_pure_packed("own", relax.Var("w", TYPE), **TYPES)
    assert _must_run(_flow(lambda b, x, y, z: b.emit(relax.op.add(x, y), "a"))) == ""
    assert _must_run(_flow(lambda b, x, y, z: _write(b, x))) == "written"
    assert _must_run(_flow(lambda b, x, y, z: b.emit(relax.Tuple([x, y]), "both"))) == ""
    assert _must_run(_flow(lambda b, x, y, z: b.match_cast(x, TYPE, "cast"))) == "cast"
    assert _must_run(_flow(lambda b, x, y, z: b.emit(pure, "pure"))) == ""
    true = constant(np.array(True))
    checked = lambda b, x, y, z: b.emit(relax.op.assert_op(true), "checked")  # noqa: E731
    assert _must_run(_flow(checked)) == "checked"


def test_nothing_in_a_dataflow_block_has_effects_but_in_place_calls() -> None:
    def in_place(builder: Any, x: Any, y: Any, z: Any) -> Any:
        call = relax.op.call_inplace_packed("own", x, inplace_indices=[0], **TYPES)
        return builder.emit(call, "in_place")

    assert _must_run(_flow(in_place, dataflow=True)) == "in_place"
    assert _must_run(_flow(in_place)) == "in_place"
    assert _must_run(_flow(lambda b, x, y, z: _write(b, x), dataflow=True)) == ""
