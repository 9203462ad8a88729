"""Each refusal code, provoked by the smallest model that deserves it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import randomise
from torch import fx, nn

import bnfx
from bnfx import Code, Report
from bnfx.passes.fx.lift import lift
from bnfx.passes.fx.rewrite import rewrite
from bnfx.passes.graph import Affine, Node
from bnfx.passes.rules import merge_affines, move_affine

X = torch.randn(2, 4, 6, 6)
Function = Callable[[Any, torch.Tensor], torch.Tensor]


class Small(nn.Module):
    """Two convolutions, a BatchNorm, and a function over them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.next = nn.Conv2d(4, 4, 3, padding=1)
        self.function = function
        randomise(self).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def pair(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.bn(model.conv(x))


def unchanged(model: Small) -> None:
    pass


class Wrapped(torch.Tensor):
    """A tensor subclass may compute anything."""


class Loud(nn.BatchNorm2d):
    """Computes something else than its base."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Leaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.BatchNorm2d))


def compiled(
    function: Function = pair,
    change: Callable[[Small], object] = unchanged,
    *,
    x: torch.Tensor = X,
    dynamic: bool = False,
    grad: bool = False,
    **options: object,
) -> Report:
    """The report of ``torch.compile``."""
    reports: list[Report] = []
    model = Small(function)
    with torch.no_grad():
        change(model)
    given = {"inner": "eager", "report": reports.append, **options}
    run = torch.compile(model, backend="bnfx", dynamic=dynamic, options=given)
    with torch.set_grad_enabled(grad):
        run(x)
    return reports[-1]


def read(module: fx.GraphModule) -> Report:
    """The report of a graph that Dynamo would not write so."""
    return Report((rewrite(module, {}, form="attributes").report,))


def traced(function: Function = pair, change: Callable[[Small], object] = unchanged) -> Report:
    model = Small(function)
    change(model)
    return read(fx.GraphModule(model, Leaves().trace(model)))


def half(scale: float) -> Report:
    """conv -> bn in float16, with weights of 2 and variances of 1."""

    def change(model: Small) -> None:
        model.conv.weight.fill_(2.0)
        model.bn.running_var.fill_(1.0)
        model.bn.weight.fill_(scale)
        model.half()

    return compiled(change=change, x=X.half())


def read_twice(model: Any, x: torch.Tensor) -> torch.Tensor:
    y = model.conv(x)
    return model.bn(y) + y.sin()


def at_axis_1(model: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's channels are the last axis; BatchNorm's are axis 1. All sizes agree."""
    return model.bn(F.linear(x[..., :4, :4], model.next.weight[..., 0, 0]))


def statistics_of_the_caller(model: Any, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(model.conv(x), x.mean((0, 2, 3)), model.bn.running_var)


def updated(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.bn.running_mean.add_(1)
    return pair(model, x)


def branch_of_a_program() -> Report:
    def branch(model: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: pair(model, y), lambda y: model.conv(y), (x,))

    program = torch.export.export(Small(branch).eval(), (X,))
    return bnfx.explain(program)


def computed_flag(model: Any, x: torch.Tensor) -> torch.Tensor:
    bn = model.bn
    return F.batch_norm(model.conv(x), bn.running_mean, bn.running_var, training=x.shape[0] > 1)


def unknown_argument() -> Report:
    def functional(model: Any, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(model.conv(x), model.bn.running_mean, model.bn.running_var)

    module = fx.symbolic_trace(Small(functional))
    (norm,) = module.graph.find_nodes(op="call_function", target=F.batch_norm)
    norm.kwargs = {**norm.kwargs, "renorm": True}
    return read(module)


def dtype_change() -> Report:
    model = Small(pair)
    module = fx.GraphModule(model, Leaves().trace(model))
    for target, dtype in (("conv", torch.float16), ("bn", torch.float32)):
        (node,) = module.graph.find_nodes(op="call_module", target=target)
        node.meta["val"] = torch.empty(X.shape, dtype=dtype)
    return read(module)


def weight_read_twice(model: Any, x: torch.Tensor) -> torch.Tensor:
    return pair(model, x) + model.conv.weight.sum()


def sequence_net() -> nn.Module:
    """Layers that take inputs with and without a batch axis, so that they do not tell the rank."""
    return nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)).eval()


def only(rule: str) -> dict[str, Any]:
    return {"rules": [rule]}


PROVOKED: dict[Code, Callable[[], Report]] = {
    Code.NO_LINEAR_BEFORE: lambda: compiled(lambda m, x: m.bn(x.sin())),
    Code.NO_LINEAR_AFTER: lambda: compiled(**only("fold-affine-into-next-linear")),
    Code.OTHER_READERS: lambda: compiled(read_twice),
    Code.AXIS_MISMATCH: lambda: compiled(at_axis_1),
    Code.NEGATIVE_SCALE: lambda: compiled(
        lambda m, x: m.bn(F.max_pool2d(m.conv(x), 2)), lambda m: m.bn.weight.abs_().neg_()
    ),
    Code.NONZERO_SHIFT: lambda: compiled(
        lambda m, x: m.bn(F.relu(m.conv(x))), lambda m: m.bn.weight.abs_()
    ),
    Code.PADDING_VALUE: lambda: compiled(
        lambda m, x: m.next(F.pad(x * 2.0, (1, 1, 1, 1), value=1.0))
    ),
    Code.COSTS_MORE: lambda: compiled(lambda m, x: m.next(F.pad(m.bn(x), (9, 9, 9, 9)))),
    Code.DYNAMIC_SHAPE: lambda: compiled(lambda m, x: m.next(m.bn(x)), dynamic=True),
    Code.UNKNOWN_RANK: lambda: read(fx.symbolic_trace(sequence_net())),
    Code.DTYPE_CHANGE: dtype_change,
    Code.TRAINING_MODE: lambda: compiled(change=lambda m: m.bn.train()),
    Code.NO_RUNNING_STATISTICS: lambda: compiled(
        change=lambda m: setattr(m, "bn", nn.BatchNorm2d(4, track_running_stats=False).eval())
    ),
    Code.GRADIENTS_NEEDED: lambda: compiled(grad=True, weights="live"),
    Code.NOT_A_PARAMETER: lambda: compiled(statistics_of_the_caller),
    Code.MUTATED_IN_GRAPH: lambda: compiled(updated),
    Code.DYNAMIC_ARGUMENT: lambda: traced(computed_flag),
    Code.UNKNOWN_ARGUMENT: unknown_argument,
    Code.UNSUPPORTED_FORM: lambda: traced(
        change=lambda m: setattr(m.bn, "running_mean", torch.zeros(4, 1))
    ),
    Code.UNSUPPORTED_DTYPE: lambda: traced(
        change=lambda m: setattr(m.bn, "running_mean", torch.zeros(4, dtype=torch.int64))
    ),
    Code.TENSOR_SUBCLASS: lambda: traced(
        change=lambda m: setattr(m.bn, "running_mean", torch.zeros(4).as_subclass(Wrapped))
    ),
    Code.HAS_HOOKS: lambda: traced(change=lambda m: m.bn.register_forward_hook(lambda *a: None)),
    Code.SUBCLASS: lambda: traced(change=lambda m: setattr(m, "bn", Loud(4).eval())),
    Code.NESTED_GRAPH: branch_of_a_program,
    Code.NON_FINITE: lambda: compiled(change=lambda m: m.bn.running_mean.fill_(float("nan"))),
    Code.OVERFLOW: lambda: half(6e4),
    Code.UNDERFLOW: lambda: half(1e-7),
    Code.RULE_DISABLED: lambda: compiled(rules="none"),
}
# Said by a warning of bnfx.fold; by a rewrite that failed; by rules, where it would tell a user
# nothing.
ELSEWHERE = {Code.OTHER_MODULES, Code.INTERNAL_ERROR, Code.NOTHING_BETWEEN, Code.NO_AFFINE_BEFORE}


def test_every_code_is_provoked() -> None:
    assert set(Code) == PROVOKED.keys() | ELSEWHERE


@pytest.mark.parametrize(
    "code", [code for code in Code if code not in ELSEWHERE], ids=lambda c: c.value
)
def test_a_code_is_given(code: Code) -> None:
    (verdict,) = PROVOKED[code]().verdicts
    assert code in {refusal.code for refusal in verdict.refusals}
    assert verdict.outcome.value in ("kept", "lowered")


def test_other_modules() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bnfx.fold(Small(weight_read_twice), X, keep="module")
    assert f"{Code.OTHER_MODULES.value}: " in " ".join(str(said.message) for said in caught)


def test_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a fault on purpose")

    module = fx.symbolic_trace(Small(pair))
    monkeypatch.setattr(importlib.import_module("bnfx.passes.fx.rewrite"), "lower_nest", fail)
    with pytest.warns(bnfx.RewriteWarning, match="a fault on purpose"):
        report = read(module)
    assert {r.code for v in report.verdicts for r in v.refusals} == {Code.INTERNAL_ERROR}


def test_what_rules_say_to_one_another() -> None:
    first, second = _affines()
    assert [r.code for r in merge_affines.refuse(first, None)] == [Code.NO_AFFINE_BEFORE]
    assert Code.NOTHING_BETWEEN in {r.code for r in move_affine.refuse(second, None)}


def _affines() -> tuple[Node, Node]:
    """sin -> bn, and conv -> bn, in the neutral graph."""
    found = []
    for function in (lambda m, x: m.bn(x.sin()), pair):
        model = Small(function)
        graph = lift(fx.GraphModule(model, Leaves().trace(model)), {}, {}, {}).graph
        found += [node for node in graph if isinstance(node.role, Affine)]
    first, second = found
    return first, second
