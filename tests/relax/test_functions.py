"""Whole modules: which functions are rewritten, what is said of the others, what is checked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tvm
from relax.graphs import Make, count, same
from relax.lifted import TYPE, conv, typed
from tvm import relax

from bnfx import Code
from bnfx.passes.relax import rewrite
from bnfx.passes.relax.compat import TensorType
from bnfx.passes.relax.rewrite import normalised, rewrite_module
from bnfx.passes.report import RewriteWarning


def _layer(make: Make) -> Any:
    return make.batch_norm(conv(make), 8)


def _module(*names: str) -> tvm.IRModule:
    functions = {name: Make(seed).module(_layer)["main"] for seed, name in enumerate(names)}
    functions = {name: each.with_attr("global_symbol", name) for name, each in functions.items()}
    return tvm.IRModule(functions)


def test_each_function_has_a_report() -> None:
    result = rewrite_module(_module("main", "other"))
    sites = {v.site.name: v.outcome.value for r in result.reports for v in r.verdicts}
    assert sites == {"batch_norm": "folded", "other.batch_norm": "folded"}
    assert count(result.module)["nn.batch_norm"] == 0


def test_tensor_programs_are_passed_over() -> None:
    module = _module("main")
    lowered = relax.transform.LegalizeOps()(Make(1).module(lambda m: m.call("exp", m.input(2))))
    (program,) = (f for f in lowered.functions.values() if not isinstance(f, relax.Function))
    module[tvm.ir.GlobalVar("program")] = program
    result = rewrite_module(module)
    assert len(result.reports) == 1
    assert result.module["program"].same_as(program)


def test_details_are_given_where_they_are_asked_for() -> None:
    for detailed in (True, False):
        (report,) = rewrite_module(_module("main"), detailed=detailed).reports
        assert (report.details is not None) is detailed
    (report,) = rewrite_module(_module("main")).reports
    assert report.details is None


def test_what_is_not_rewritten_is_the_callers() -> None:
    module = Make(0).module(lambda make: make.call("exp", make.input(2)))
    assert rewrite_module(module).module is module
    module = _module("main")
    assert rewrite_module(module, ()).module is module
    x = relax.Var("x", TYPE)
    raw = _raw(relax.op.exp(x), x)  # its values have no types
    assert rewrite_module(raw).module is raw


@pytest.mark.parametrize("owner", ["Primitive", "Composite", "Codegen"])
def test_functions_of_others(owner: str) -> None:
    for value, kept in (("theirs", True), (1, True), (0, False), ("", False)):
        module = _module("main")
        module = tvm.IRModule({"main": module["main"].with_attr(owner, value)})
        (report,) = rewrite_module(module).reports
        (verdict,) = report.verdicts
        assert verdict.site.name == "batch_norm"
        codes = [refusal.code for refusal in verdict.refusals]
        assert codes == ([Code.NESTED_GRAPH] if kept else [])
    attributes = _module("main")["main"].with_attr("own", "x")
    (report,) = rewrite_module(tvm.IRModule({"main": attributes})).reports
    assert [verdict.outcome.value for verdict in report.verdicts] == ["folded"]


def _broken(monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> Any:
    def fail(*args: Any, **options: Any) -> Any:
        raise tvm.error.InternalError("broken")

    monkeypatch.setattr(rewrite, name, fail)
    module = _module("main")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = rewrite_module(module)
    assert [warning.category for warning in caught] == [RewriteWarning]
    assert what in str(caught[0].message)
    assert same(result.module, module)
    (report,) = result.reports
    (verdict,) = report.verdicts
    assert [refusal.code for refusal in verdict.refusals] == [Code.INTERNAL_ERROR]
    return report


def test_what_breaks_leaves_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, "lower", "the rewrite failed")


def test_what_cannot_be_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, "tensor_types", "reading the function failed")


def test_what_is_not_well_formed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, "_replaced", "checking the result failed")


def test_another_type_is_refused() -> None:
    module = _module("main")
    (variable,) = module.get_global_vars()
    other = Make(0).module(lambda make: make.call("exp", make.input(2)))["main"]
    with pytest.raises(TypeError, match="its type became"):
        rewrite._replaced(module, variable, module["main"], other)
    x = relax.Var("x", TYPE)
    free = relax.Function([x], relax.SeqExpr([], relax.Var("free", TYPE)), TYPE)
    with pytest.raises(Exception, match=r"(?s).*"):
        rewrite._replaced(module, variable, module["main"], free)


def _calls(function: Any) -> list[int]:
    return [len(block.bindings) for block in function.body.blocks]


def _raw(body: Any, *parameters: Any) -> tvm.IRModule:
    kind = TYPE if not isinstance(body, relax.Tuple) else None
    return tvm.IRModule({"main": relax.Function(list(parameters), body, kind)})


def test_normal_form() -> None:
    """Each value has a name and a type; a module that is so is not copied."""
    x = relax.Var("x", TYPE)
    y = relax.op.nn.relu(x)
    assert _calls(normalised(_raw(y, x))["main"]) == [1]
    nested = normalised(_raw(relax.op.nn.relu(relax.op.exp(x)), x))
    assert _calls(nested["main"]) == [2]
    assert normalised(nested).same_as(nested)
    split = relax.TupleGetItem(relax.op.split(x, 2, 1), 0)
    part = _raw(relax.op.concat([split, split], 1), x)
    assert sum(_calls(normalised(part)["main"])) >= 3
    module = _module("main", "other")
    module["third"] = _raw(relax.op.nn.relu(relax.op.exp(x)), x)["main"]
    normal = normalised(module)
    assert not normal.same_as(module)
    assert _calls(normal["third"]) == [2]
    assert set(map(str, normal.get_global_vars())) == set(map(str, module.get_global_vars()))


def _bound(*calls: Any) -> list[Any]:
    variables = [relax.Var(f"v{number}", TYPE) for number, _ in enumerate(calls)]
    pairs = zip(variables, calls, strict=True)
    return [relax.VarBinding(variable, call) for variable, call in pairs]


_X, _HALF = relax.Var("x", TYPE), TensorType((2, 4, 6, 6), "float64")
_PAIR = relax.TupleStructInfo if hasattr(relax, "TupleStructInfo") else relax.TupleType
FORMS: dict[str, tuple[list[Any], Any, bool]] = {
    "all is named and typed": (_bound(typed(relax.op.exp(_X))), _X, True),
    "a value without a type": (_bound(relax.op.exp(_X), typed(relax.op.exp(_X))), _X, False),
    "the last without a type": (_bound(typed(relax.op.exp(_X)), relax.op.exp(_X)), _X, False),
    "a call that a call reads": (
        _bound(typed(relax.op.nn.relu(typed(relax.op.exp(_X)))), typed(relax.op.exp(_X))),
        _X,
        False,
    ),
    "a call whose part is read": (
        _bound(relax.TupleGetItem(typed(relax.op.split(_X, 2, 1), _PAIR([_HALF, _HALF])), 0)),
        _X,
        False,
    ),
    "a call as the result": ([], typed(relax.op.exp(_X)), True),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_normal(form: str) -> None:
    """A module is copied if one value has no name or no type."""
    bindings, body, normal = FORMS[form]
    blocks = [relax.BindingBlock(bindings)] if bindings else []
    sequence = typed(relax.SeqExpr(blocks, body))
    function = relax.Function([_X], sequence, TYPE)
    module = tvm.IRModule({"main": function})
    assert normalised(module).same_as(module) is normal
