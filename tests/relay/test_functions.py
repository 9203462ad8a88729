"""Whole modules: which functions are rewritten, what is said of the others, what is checked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tvm
from graphs import Make, count, module_of
from lifted import calls
from tvm import relay

from bnfx import Code
from bnfx.passes.relay import rewrite
from bnfx.passes.relay.rewrite import rewrite_module
from bnfx.passes.report import RewriteWarning


def _layer(seed: int) -> Any:
    make = Make(seed)
    return make.batch_norm(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)


def _module(*names: str) -> tvm.IRModule:
    functions = {}
    for seed, name in enumerate(names):
        body = _layer(seed)
        functions[relay.GlobalVar(name)] = relay.Function(relay.analysis.free_vars(body), body)
    return tvm.IRModule(functions)


def _outcomes(result: Any) -> dict[str, str]:
    return {v.site.name: v.outcome.value for r in result.reports for v in r.verdicts}


def test_each_function_has_a_report() -> None:
    """Whatever it is called: the trial is called otherwise."""
    result = rewrite_module(_module("main", "anew", "anew_"))
    found = _outcomes(result)
    assert found == {
        "batch_norm": "folded",
        "anew.batch_norm": "folded",
        "anew_.batch_norm": "folded",
    }
    assert len(result.reports) == 3
    assert count(result.module)["nn.batch_norm"] == 0
    assert {var.name_hint for var in result.module.get_global_vars()} == {"main", "anew", "anew_"}


def test_tensor_programs_are_passed_over() -> None:
    module = _module("main")
    buffer = tvm.te.placeholder((2,), name="a")
    program = tvm.te.create_prim_func([buffer, tvm.te.compute((2,), lambda i: buffer[i] + 1)])
    module["program"] = program
    result = rewrite_module(module)
    assert len(result.reports) == 1
    assert isinstance(result.module["program"], tvm.tir.PrimFunc)


def test_details_are_given_where_they_are_asked_for() -> None:
    for options, detailed in (({"detailed": True}, True), ({}, False)):
        (report,) = rewrite_module(_module("main"), **options).reports
        assert (report.details is not None) is detailed


def test_a_function_without_a_rewrite_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_replaced", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rewrite_module(module_of(relay.nn.relu(Make(0).input(2, 3))))
    assert calls(result.module["main"]) == ["nn.relu"]


@pytest.mark.parametrize("owner", ["Primitive", "Composite", "Compiler"])
def test_functions_of_others(owner: str) -> None:
    module = _module("main")
    value: Any = 1 if owner == "Primitive" else "theirs"
    module["main"] = module["main"].with_attr(owner, value)
    result = rewrite_module(module)
    assert _outcomes(result) == {"batch_norm": "kept"}
    assert count(result.module)["nn.batch_norm"] == 1


def test_functions_that_cannot_be_read_are_surveyed() -> None:
    result = rewrite_module(module_of(relay.RefRead(relay.RefCreate(_layer(0)))))
    assert _outcomes(result) == {"batch_norm": "kept"}
    (report,) = result.reports
    assert {r.code for v in report.verdicts for r in v.refusals} == {Code.NESTED_GRAPH}


def test_functions_inside() -> None:
    """Are rewritten on their own."""
    y = _layer(0)
    inner = relay.Function(relay.analysis.free_vars(y), y)
    x = Make(0).input(2, 4, 6, 7, name="z")
    result = rewrite_module(module_of(relay.Call(inner, [relay.nn.relu(x)])))
    assert _outcomes(result) == {"function_0.batch_norm": "folded"}
    assert count(result.module)["nn.batch_norm"] == 0


def test_attributes_and_types_stay() -> None:
    module = _module("main")
    module["main"] = module["main"].with_attr("own", "kept")
    module = module.with_attr("whole", tvm.runtime.String("kept"))
    before = relay.transform.InferType()(module)["main"]
    found = rewrite_module(module).module
    assert found["main"].attrs["own"] == found.attrs["whole"] == "kept"
    assert tvm.ir.structural_equal(found["main"].checked_type, before.checked_type)
    assert tvm.ir.structural_equal(found["main"].ret_type, before.ret_type)


def test_a_type_that_changes_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other functions are rewritten all the same."""
    real = rewrite.lower
    bodies = iter([lambda body: relay.nn.global_avg_pool2d(body), lambda body: body])
    monkeypatch.setattr(rewrite, "lower", lambda *args: next(bodies)(real(*args)))
    with pytest.warns(RewriteWarning, match="checking the types.*its type became"):
        result = rewrite_module(_module("main", "other"))
    assert _outcomes(result) == {"batch_norm": "kept", "other.batch_norm": "folded"}
    (kept,) = (v for r in result.reports for v in r.verdicts if v.outcome.value == "kept")
    assert [refusal.code for refusal in kept.refusals] == [Code.INTERNAL_ERROR]
