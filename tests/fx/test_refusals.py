"""A refusal for each thing that stands against a fold: the code, and an unchanged graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support import count_batch_norms, randomise, relative
from torch import fx, nn

import bnfx
from bnfx import Code
from bnfx.folding.capturing.symbolic import Tracer
from bnfx.passes.fx.rewrite import rewrite
from bnfx.passes.report import GraphReport


def pair() -> nn.Sequential:
    return randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()


def codes(report: GraphReport | bnfx.Report) -> set[Code]:
    return {refusal.code for verdict in report.verdicts for refusal in verdict.refusals}


def refused(module: fx.GraphModule, *codes_expected: Code) -> None:
    """The rewrite leaves the graph as it was and gives these codes."""
    before = module.code
    rewritten = rewrite(module, {}, form="attributes")
    assert codes(rewritten.report) == set(codes_expected)
    assert rewritten.report.count(bnfx.Outcome.KEPT) == len(rewritten.report.verdicts) == 1
    assert rewritten.slots == ()
    assert rewritten.module.code == before


def test_training_batch_norm_in_an_evaluated_model() -> None:
    model = pair()
    model[1].train()
    refused(fx.symbolic_trace(model), Code.TRAINING_MODE)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks(hook: str) -> None:
    model = pair()
    getattr(model[0], hook)(lambda *args: None)
    report = rewrite(fx.symbolic_trace(model), {}, form="attributes").report
    assert codes(report) == {Code.NO_LINEAR_BEFORE, Code.HAS_HOOKS}
    model = pair()
    getattr(model[1], hook)(lambda *args: None)
    refused(fx.symbolic_trace(model), Code.HAS_HOOKS)


def test_hook_between_conv_and_norm_still_runs() -> None:
    model = pair().double()
    model[0].register_forward_hook(lambda module, args, output: output.relu())
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        assert relative(bnfx.fold(model, x)(x), model(x)) < 1e-12
        compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
        assert relative(compiled(x), model(x)) < 1e-12


class Loud(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Quiet(nn.Conv2d):
    """A subclass that changes nothing is as good as its base."""


class Leaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.BatchNorm2d))


def traced_with_leaves(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, Leaves().trace(model))


def test_subclass_that_adds_behaviour() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), Loud(5))).eval()
    refused(traced_with_leaves(model), Code.SUBCLASS)


def test_subclass_that_adds_nothing_folds() -> None:
    model = randomise(nn.Sequential(Quiet(3, 5, 3), nn.BatchNorm2d(5))).eval()
    report = rewrite(traced_with_leaves(model), {}, form="attributes").report
    assert report.count(bnfx.Outcome.FOLDED) == 1


def test_instance_with_its_own_forward() -> None:
    model = pair()
    model[1].forward = lambda x: x * 2
    refused(traced_with_leaves(model), Code.SUBCLASS)


def test_parametrized_weight() -> None:
    model = pair()
    nn.utils.parametrizations.weight_norm(model[0])
    report = rewrite(traced_with_leaves(model), {}, form="attributes").report
    assert codes(report) == {Code.NO_LINEAR_BEFORE, Code.SUBCLASS}


def test_unknown_rank_and_the_way_out() -> None:
    model = randomise(nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5))).eval()
    refused(fx.symbolic_trace(model), Code.UNKNOWN_RANK)
    assert bnfx.explain(model, torch.randn(2, 3, 8)).count("folded") == 1


def mutating(change: Callable[[nn.Module], object]) -> fx.GraphModule:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            change(self)
            rank4 = torch.relu(x)
            return F.batch_norm(
                F.conv2d(rank4, self.conv.weight), self.bn.running_mean, self.bn.running_var
            )

    model = Model().eval()
    return fx.GraphModule(model, Tracer().trace(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.bn.running_mean.add_(1),
        lambda m: m.bn.running_mean.view(-1).detach().mul_(2),
        lambda m: torch.add(m.conv.weight[0, 0, 0, 0], 1, out=m.bn.running_mean),
        lambda m: F.relu(m.bn.running_mean, inplace=True),
        lambda m: F.relu(m.bn.running_mean, True),
        lambda m: m.bn.running_mean.__setitem__(0, 1.0),
        lambda m: torch.relu_(m.bn.running_mean),
        lambda m: F.batch_norm(m.conv.weight, m.bn.running_mean, m.bn.running_var, training=True),
    ],
    ids=["method", "view", "out", "inplace-keyword", "inplace", "setitem", "function", "training"],
)
def test_statistics_written_in_the_graph(change: Callable[[nn.Module], object]) -> None:
    module = mutating(change)
    report = rewrite(module, {}, form="attributes").report
    assert Code.MUTATED_IN_GRAPH in codes(report)
    assert report.count(bnfx.Outcome.KEPT) == len(report.verdicts)


def test_reading_a_statistic_elsewhere_is_no_write() -> None:
    module = mutating(lambda m: m.bn.running_mean.mean() + torch.relu(m.bn.running_mean))
    assert Code.MUTATED_IN_GRAPH not in codes(rewrite(module, {}, form="attributes").report)


def functional(**changes: object) -> fx.GraphModule:
    """F.conv2d and F.batch_norm with some arguments changed; "x" stands for the input."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            conv = {"stride": 1, "padding": 0}
            norm = {"training": False, "eps": 1e-5}
            for name, value in changes.items():
                (conv if name in conv else norm)[name] = value(x) if callable(value) else value
            y = F.conv2d(x, self.conv.weight, self.conv.bias, **conv)
            return F.batch_norm(y, self.bn.running_mean, self.bn.running_var, **norm)

    return fx.symbolic_trace(Model().eval())


def test_computed_arguments() -> None:
    refused(functional(training=lambda x: x.shape[0] > 1), Code.DYNAMIC_ARGUMENT)
    refused(functional(eps=lambda x: x.shape[0]), Code.DYNAMIC_ARGUMENT)
    stride = rewrite(functional(stride=lambda x: x.shape[0]), {}, form="attributes").report
    assert codes(stride) == {Code.NO_LINEAR_BEFORE, Code.DYNAMIC_ARGUMENT, Code.UNKNOWN_RANK}


def test_unknown_argument() -> None:
    module = functional()
    (norm,) = module.graph.find_nodes(op="call_function", target=F.batch_norm)
    norm.kwargs = {**norm.kwargs, "renorm": True}
    refused(module, Code.UNKNOWN_ARGUMENT)
    padding = rewrite(functional(padding="mirror"), {}, form="attributes").report
    assert Code.UNKNOWN_ARGUMENT in codes(padding)


def test_statistics_that_the_caller_passes_in() -> None:
    def forward(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, mean, var)

    refused(fx.symbolic_trace(forward), Code.NOT_A_PARAMETER)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_non_finite_statistics(name: str, bad: float) -> None:
    model = pair()
    with torch.no_grad():
        getattr(model[1], name)[2] = bad
    refused(fx.symbolic_trace(model), Code.NON_FINITE)


def test_negative_variance_and_bad_weights() -> None:
    model = pair()
    model[1].running_var[0] = -1.0
    refused(fx.symbolic_trace(model), Code.NON_FINITE)
    model = pair()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    report = rewrite(fx.symbolic_trace(model), {}, form="attributes").report
    assert report.count(bnfx.Outcome.LOWERED) == 1
    assert codes(report) == {Code.NON_FINITE}


@pytest.mark.parametrize(
    ("var", "gamma", "code"),
    [(1e-8, 1000.0, Code.OVERFLOW), (6e4, 1e-4, Code.UNDERFLOW)],
)
def test_half_precision_range(var: float, gamma: float, code: Code) -> None:
    """Folded, these weights leave float16; unfolded, and as a multiply-add, the model is right."""
    model = pair().half()
    with torch.no_grad():
        model[0].weight.mul_(0.1)
        model[0].bias.zero_()
        model[1].running_mean.zero_()
        model[1].running_var.fill_(var)
        model[1].weight.fill_(gamma)
        model[1].bias.zero_()
        model[1].eps = 1e-8
    x = torch.randn(2, 3, 6, 7).half() * 1e-2
    if code is Code.UNDERFLOW:
        x = x * 1e4
    report = bnfx.explain(model, x)
    assert codes(report) == {code}
    assert report.count("lowered") == 1
    with torch.no_grad():
        assert relative(bnfx.fold(model, x)(x), model(x)) < 2e-3


def test_half_convolution_before_float_norm_overflows_under_autocast() -> None:
    """The weights are float32, but autocast computes with them in float16."""
    model = pair()
    with torch.no_grad():
        model[1].running_var.fill_(1e-6)
        model[1].weight.fill_(1e3)
        model[1].eps = 1e-12
    x = torch.randn(2, 3, 6, 7) * 1e-4
    with torch.autocast("cpu", dtype=torch.float16):
        assert Code.OVERFLOW in codes(bnfx.explain(model, x))


def test_dtype_change() -> None:
    module = fx.symbolic_trace(pair())
    for target, dtype in (("0", torch.float16), ("1", torch.float32)):
        (node,) = module.graph.find_nodes(op="call_module", target=target)
        node.meta["val"] = torch.empty(2, 5, 4, 5, dtype=dtype)
    report = rewrite(module, {}, form="attributes").report
    assert codes(report) == {Code.DTYPE_CHANGE}
    assert report.count(bnfx.Outcome.LOWERED) == 1


def test_unsupported_dtype() -> None:
    model = pair()
    model[1].running_mean = torch.zeros(5, dtype=torch.int64)
    refused(fx.symbolic_trace(model), Code.UNSUPPORTED_DTYPE)


def test_unsupported_form() -> None:
    model = pair()
    model[1].running_mean = torch.zeros(5, 1)
    refused(fx.symbolic_trace(model), Code.UNSUPPORTED_FORM)


class Wrapped(torch.Tensor):
    """A tensor subclass may compute anything."""


def test_tensor_subclass() -> None:
    model = pair()
    model[1].running_mean = torch.zeros(5).as_subclass(Wrapped)
    refused(fx.symbolic_trace(model), Code.TENSOR_SUBCLASS)


def test_nested_graph_is_accounted_for() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # torch 2.11 exports no branches of convolutions.
            self.pair = randomise(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, self.pair, lambda y: self.pair(y * 2), (x,))

    model = Branch().eval()
    x = torch.randn(2, 3)
    program = torch.export.export(model, (x,))
    report = bnfx.explain(program)
    assert codes(report) == {Code.NESTED_GRAPH}
    assert report.count("kept") == 2
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-6


def test_rules_none_keeps_everything() -> None:
    model = pair()
    folded = bnfx.fold(model, rules="none", keep="graph")
    assert count_batch_norms(folded) == 1
    report = rewrite(fx.symbolic_trace(model), {}, form="attributes", rules=()).report
    assert codes(report) == {Code.RULE_DISABLED}


@pytest.mark.slow
def test_merged_maps_of_unknown_rank_are_both_kept() -> None:
    """A merge without a way to emit it would drop the second BatchNorm."""
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(144)]
    model = randomise(nn.Sequential(*layers, nn.BatchNorm1d(144))).eval().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for rules in ("all", ["fold-affine-into-linear", "merge-affines"]):
        with pytest.warns(bnfx.FoldWarning):
            blind = bnfx.fold(model, rules=rules, keep="graph")
        for folded in (blind, bnfx.fold(model, x, rules=rules, keep="graph")):
            with torch.no_grad():
                assert relative(folded(x), model(x)) < 1e-12
