"""What Dynamo's graphs say of their inputs, and what a rewrite of one gives."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, parameters, traced
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bnfx.passes.algebra import Source
from bnfx.passes.fx import private
from bnfx.passes.fx.dynamo import (
    GraphInputs,
    describe_slots,
    describe_tables,
    has_constant_output,
    switches_gradients,
    without_gradients,
)
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.rewrite import (
    computing_dtype,
    is_meta,
    make_values,
    rewrite,
    rewrite_captured,
    rewrite_traced,
)
from bnfx.passes.fx.surveys import survey, survey_shapeless
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome, RewriteWarning
from bnfx.passes.rules.ordered import RULES

STATIC = {"tensor_dict": {"_dynamo_static_input_type": "unguarded"}}
NUMBER = torch.tensor(0.5, dtype=torch.float64)


def _wrapped(is_tensor: bool = False, passed: bool = True) -> dict[str, Any]:
    return {"grapharg": SimpleNamespace(pass_arg_as_tensor=passed, is_tensor=is_tensor)}


@pytest.mark.parametrize(
    ("meta", "value", "kind"),
    [
        (STATIC, NUMBER, "parameters"),
        ({"tensor_dict": {}}, NUMBER, "others"),
        ({"tensor_dict": None}, NUMBER, "others"),
        ({}, NUMBER, "others"),
        (_wrapped(), NUMBER, "scalars"),
        (_wrapped(is_tensor=True), NUMBER, "others"),
        (_wrapped(passed=False), NUMBER, "others"),
        (_wrapped(), NUMBER.float(), "others"),
        (_wrapped(), NUMBER[None], "others"),
        ({"grapharg": SimpleNamespace(pass_arg_as_tensor=True)}, NUMBER, "others"),
        (STATIC, 2, ""),
    ],
)
def test_what_inputs_are(meta: dict[str, Any], value: Any, kind: str) -> None:
    graph = fx.Graph()
    graph.placeholder("first")
    graph.placeholder("x").meta = meta
    graph.output(None)
    inputs = GraphInputs.of(fx.GraphModule({}, graph), [1, value])
    assert inputs.positions == {"first": 0, "x": 1}
    for name in ("parameters", "scalars", "others"):
        assert getattr(inputs, name) == ({"x": value} if name == kind else {})


SWITCHES: dict[str, tuple[list[tuple[Any, Any]], bool, bool]] = {
    "none": ([], False, False),
    "off": ([(torch._C._set_grad_enabled, False)], True, False),
    "off, by its class": ([(torch.set_grad_enabled, False)], True, False),
    "on": ([(torch._C._set_grad_enabled, True)], True, True),
    "on, then off": ([(torch.set_grad_enabled, True), (torch.set_grad_enabled, False)], True, True),
    "inference": ([(torch.autograd.grad_mode._enter_inference_mode, True)], True, False),
    "no inference": ([(torch.autograd.grad_mode._enter_inference_mode, False)], True, True),
    "another": ([(torch.relu, True)], False, False),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", SWITCHES)
def test_gradients_that_are_switched(name: str, nested: bool) -> None:
    calls, switches, on = SWITCHES[name]
    graph = fx.Graph()
    x = graph.placeholder("x")
    for target, argument in calls:
        graph.call_function(target, (argument,))
    graph.output(x)
    module = fx.GraphModule({}, graph)
    if nested:
        outer = fx.Graph()
        x = outer.placeholder("x")
        outer.output(outer.call_function(torch.ops.higher_order.wrap, (outer.get_attr("body"), x)))
        module = fx.GraphModule({"body": module}, outer)
    assert switches_gradients(module) == switches
    wanted = torch.ones(2, requires_grad=True)
    assert without_gradients(module, [1, wanted.detach()])
    assert not without_gradients(module, [1, wanted])
    with torch.no_grad():
        assert without_gradients(module, [wanted]) == (not on)


@pytest.mark.parametrize("fake", [True, False])
def test_inputs_that_are_described(fake: bool) -> None:
    graph = fx.Graph()
    for name in ("x", "s", "t"):
        graph.placeholder(name)
    graph.output(None)
    module = fx.GraphModule({}, graph)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    size = mode.shape_env.create_unbacked_symint()  # an open size stands first
    examples = [size, mode.from_tensor(torch.ones(2)) if fake else torch.ones(2)]
    weights = [torch.ones(3), torch.ones(3, 4)]

    def told() -> list[Any]:
        nodes = module.graph.find_nodes(op="placeholder")[1:]
        assert [node._dynamo_source for node in nodes] == [None, None]
        found = [node.meta.pop("example_value") for node in nodes]
        assert all(isinstance(size, int) for each in found for size in each.shape)
        return found

    describe_tables(module, weights, examples)
    assert all(isinstance(each, private.FakeTensor) == fake for each in told())
    slots = [
        Slot(name, Source("w", tuple(value.shape), "float32"), "float16")
        for name, value in zip("st", weights, strict=True)
    ]
    assert describe_slots(module, slots, weights, examples)[0] is weights[0]
    assert all(isinstance(each, private.FakeTensor) == fake for each in told())
    if fake:
        made = describe_slots(module, slots, None, examples)
        assert made == told()
        assert [(each.shape, each.dtype) for each in made] == [
            ((3,), torch.float16),
            ((3, 4), torch.float16),
        ]


def _outputs(*outputs: str, constants: str = "w") -> bool:
    graph = fx.Graph()
    x, w, y = (graph.placeholder(name) for name in "xwy")
    nodes = {"x": x, "w": w, "y": y, "a": graph.call_method("add", (x, w))}
    nodes["b"] = graph.call_method("exp", (w,))
    nodes["c"] = graph.call_method("exp", (nodes["a"],))
    nodes["g"] = graph.get_attr("g")
    graph.output(tuple(nodes[name] for name in outputs))
    return has_constant_output(fx.GraphModule({"g": torch.ones(1)}, graph), constants)


def test_outputs_that_are_constant() -> None:
    assert not _outputs()
    assert not _outputs("a", "c", "x", "y")
    for name in "wbg":
        assert _outputs("a", name)
    assert not _outputs("w", "b", constants="")


@pytest.mark.parametrize("view", [True, False])
def test_an_output_that_lies_in_a_constant(view: bool) -> None:
    """It takes its shape alone from the input; the caller could write to the constant."""
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    y = graph.call_method("view_as" if view else "add", (w, x))
    graph.output((y,))
    x.meta["example_value"], w.meta["example_value"] = torch.ones(4), torch.ones(2, 2)
    told = w.meta["example_value"]
    y.meta["example_value"] = told.view(4) if view else told + 1
    assert has_constant_output(fx.GraphModule({}, graph), {"w"}) == view


def _net(run: Any = lambda n, x: n.bn(n.conv(x))) -> tuple[fx.GraphModule, GraphInputs]:
    def functional(n: Any, x: Any) -> Any:
        y = F.conv2d(x, n.conv.weight)
        stats = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
        return F.batch_norm(y, *stats, False, 0.1, 1e-5)

    _, module = traced(functional)
    tensors = parameters(module)
    return module, GraphInputs({}, tensors, {}, {})


def test_what_a_rewrite_gives() -> None:
    module, inputs = _net()
    result = rewrite_captured(module, inputs, detailed=True)
    assert {source.name for source in result.sources} == set(inputs.parameters)
    assert len(result.sources) == 5
    assert result.report.details is not None
    assert result.report.bytes_before > result.report.bytes_after > 0
    assert [v.error is not None for v in result.report.verdicts] == [True]
    with torch.inference_mode():
        last = result.last_inputs()
    assert last is not None
    assert len(last) == 2
    assert not any(each.requires_grad or each.is_inference() for each in last)
    assert result.recipe is not None
    assert len(result.report.details.norms) == 1
    plain = rewrite_captured(module, inputs, measured=False)
    with torch.inference_mode():
        assert not any(each.is_inference() for each in plain.evaluate() or ())
    assert [v.error for v in plain.report.verdicts] == [None]
    assert plain.report.details is None
    calculated = rewrite_traced(module, inputs, RULES, True)
    assert calculated.last_inputs() == calculated.tables == ()
    assert calculated.recipe is None
    assert rewrite_traced(module, inputs, (), True).module is module
    nothing = rewrite_captured(module, inputs, rules=())
    assert nothing.module is module
    assert (nothing.slots, nothing.recipe, nothing.sources) == ((), None, ())


def test_parameters_without_numbers() -> None:
    module, inputs = _net()
    mode = FakeTensorMode()
    for fake in (True, False):
        tensors = {
            name: mode.from_tensor(value) if fake else value.to("meta")
            for name, value in inputs.parameters.items()
        }
        assert make_values(tensors) is None
        assert [is_meta(each) for each in tensors.values()] == [not fake] * 5
        result = rewrite(module, tensors, form="placeholders", detailed=True)
        assert len(result.slots) == 2
        assert (result.values, result.recipe, result.evaluate()) == (None, None, None)
        assert result.last_inputs() is None
    assert not is_meta(torch.ones(1))
    assert not is_meta(mode.from_tensor(torch.ones(1, device="meta")))
    assert make_values({}) is None
    one = {"a": torch.ones(1), "b": torch.ones(1).to("meta")}
    assert make_values(one) is None
    assert make_values({"a": torch.ones(1)}) is not None


def test_signs_are_of_numbers_that_stay() -> None:
    """A graph that computes its weights at each call runs with any; a recipe tells for which."""
    _, module = traced(lambda n, x: F.conv2d(torch.relu(torch.mul(x, n.scale)), n.conv.weight))
    inputs = GraphInputs({}, parameters(module), {}, {})
    assert rewrite_traced(module, inputs, RULES, True).slots == ()
    result = rewrite_captured(module, inputs)
    assert result.recipe is not None
    assert len(result.slots) == 1
    assert result.recipe.fill(inputs.parameters) is not None
    with torch.no_grad():
        inputs.parameters["p_scale"].neg_()
    assert result.recipe.fill(inputs.parameters) is None


def test_an_input_that_is_written_may_be_a_parameter() -> None:
    module, inputs = _net()
    (x,) = (node for node in module.graph.nodes if node.name == "x")
    with module.graph.inserting_after(x):
        module.graph.call_method("add_", (x, 1))
    mean = inputs.parameters["p_bn_running_mean"]
    for other, codes in ((mean.view(2, 2), {Code.MUTATED_IN_GRAPH}), (X.clone(), set())):
        told = GraphInputs({}, inputs.parameters, {}, {"x": other})
        (verdict,) = rewrite_captured(module, told).report.verdicts
        assert {refusal.code for refusal in verdict.refusals} == codes


def test_the_dtype_that_is_computed_in() -> None:
    on_mps: Any = SimpleNamespace(device=torch.device("mps"))
    assert computing_dtype({"a": torch.ones(1)}) == "float64"
    assert computing_dtype({"a": torch.ones(1), "b": on_mps}) == "float32"
    assert computing_dtype({}) == "float64"


def test_surveys(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = _net()
    why = Refusal(Code.GRADIENTS_NEEDED, "for a test")
    (verdict,) = survey(module, inputs.parameters, why).verdicts
    assert verdict.outcome is Outcome.KEPT
    assert next(refusal.code for refusal in verdict.refusals) is Code.GRADIENTS_NEEDED
    assert Code.RULE_DISABLED not in {refusal.code for refusal in verdict.refusals}
    shapeless = survey_shapeless(module, RULES)
    assert shapeless is not None
    assert len(shapeless.verdicts) == 1

    def broken(*args: Any) -> Any:
        raise RuntimeError("for a test")

    for name in ("surveys", "bodies.nest"):
        monkeypatch.setattr(importlib.import_module(f"bnfx.passes.fx.{name}"), "lift", broken)
    report = survey(module, inputs.parameters, why)
    assert report.verdicts == ()
    assert report.notes[0] == why.reason
    assert "for a test" in report.notes[1]
    assert survey_shapeless(module, RULES) is None
    with pytest.warns(RewriteWarning, match="for a test"):
        assert rewrite(module, {}, form="attributes").module is module


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("torch:relu", torch.relu),
        ("torch", torch),
        ("torch:nn.functional", F),
        ("torch:missing", None),
        ("torch:nn.missing.more", None),
        ("torch.missing:relu", None),
    ],
)
def test_names_that_torch_may_not_have(path: str, expected: Any) -> None:
    assert private.find(path) is expected
