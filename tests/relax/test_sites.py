"""Names and places in reports: those that frontends noted, each once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bnfx.passes.tvm.dataflow import ValueForm
from bnfx.passes.tvm.sites import Names, locations, module_of, site_of


def _expr(source: str = "", line: int = 0, **given: Any) -> Any:
    span = SimpleNamespace(source_name=SimpleNamespace(name=source), line=line)
    return SimpleNamespace(span=span if source else None, **given)


def _value(form: ValueForm = ValueForm.CALL, name: str = "", op: str | None = "nn.relu") -> Any:
    return SimpleNamespace(form=form, name=name, op=op, expr=_expr(), args=[])


def test_what_a_frontend_noted() -> None:
    assert list(locations(_expr())) == []
    assert list(locations(SimpleNamespace())) == []
    assert list(locations(_expr("layer", 7))) == ["layer", "layer:7"]
    assert list(locations(_expr("layer"))) == ["layer", "layer"]
    assert list(locations(_expr("output@@node", 2))) == ["node", "node:2"]
    assert list(locations(SimpleNamespace(span=SimpleNamespace(source_name=None)))) == []
    assert list(locations(SimpleNamespace(span=SimpleNamespace()))) == []


def test_sites() -> None:
    site = site_of(_expr("layer", 7), "name")
    assert (site.name, site.kind, site.location) == ("name", "batch_norm", "layer:7")
    site = site_of(_expr(), "name", "affine")
    assert (site.name, site.kind, site.location) == ("name", "affine", "")


def test_names_are_unique() -> None:
    names = Names("f.")
    assert [names.unique(name) for name in ("a", "a", "b", "a")] == ["f.a", "f.a_1", "f.b", "f.a_2"]
    assert names.unique("a_1") == "f.a_1_1"
    assert names.unique("b_1") == "f.b_1"
    assert names.unique("b") == "f.b_2"  # what it would be is a name already


def test_names_of_values() -> None:
    names = Names("")
    constant = _value(ValueForm.CONSTANT, "named", None)
    constant.expr = _expr("first reader")
    assert names.of(constant) == "constant"
    assert names.of(_value(ValueForm.VARIABLE, "x", None)) == "x"
    assert names.of(_value()) == "relu"
    assert names.of(_value(ValueForm.TUPLE, op=None)) == "simplenamespace"
    noted = _value()
    noted.expr = _expr("layer")
    assert names.of(noted) == "layer"


def _parameters(*names: str) -> list[Any]:
    return [_expr(name=name) for name in ("x.data", *names)]


def test_a_batch_norm_is_named_for_its_module() -> None:
    own = ("net.bn.weight", "net.bn.bias", "net.bn.running_mean", "net.bn.running_var")
    names = Names("")
    assert module_of(_parameters(*own)) == "net.bn"
    assert names.of_call(_expr(), "nn.batch_norm", _parameters(*own)) == "net.bn"
    assert names.of_call(_expr("noted"), "nn.batch_norm", _parameters(*own)) == "noted"
    assert names.of_call(_expr(), "nn.layer_norm", _parameters(*own)) == "layer_norm"
    assert names.of_call(_expr(), "nn.batch_norm", _parameters("a", "b")) == "batch_norm"
    assert names.of_call(_expr(), "nn.batch_norm") == "batch_norm_1"
    # Others' names, or none, say nothing; what is read beyond the parameters does not count.
    assert module_of(_parameters("", "net.bn.bias", "", "")) == "net.bn"
    assert module_of(_parameters("net.bn.weight", "other.bias")) == ""
    assert module_of([*_parameters(*own), _expr(name="other.x")]) == "net.bn"
    assert module_of([_expr(), _expr(name_hint="net.bn.weight", name="other.b")]) == "net.bn"
    assert module_of([_expr(), _expr("net.bn.weight")]) == "net.bn"
