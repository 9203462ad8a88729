"""The whole way: lift, run the rules, lower. Never raises for a function it cannot rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from bnfx.passes import pipeline
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relax.compat import Expr, name_of, same, tensor_types, type_of
from bnfx.passes.relax.expressions import Dataflow, Value
from bnfx.passes.relax.lift import lift
from bnfx.passes.relax.lower import lower
from bnfx.passes.relax.sites import Names, site_of
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule

# Functions that somebody matched for a code generator of their own, which knows them as they are.
_OWNED = ("Primitive", "Composite", "Codegen")


@dataclass(frozen=True)
class Rewritten:
    """A rewritten module, and a report for each of its functions."""

    module: tvm.IRModule
    reports: tuple[GraphReport, ...]


def rewrite_module(module: tvm.IRModule, rules: Sequence[Rule] = RULES) -> Rewritten:
    """Fold what can be folded in each Relax function of ``module``, which is left untouched.

    If anything raises, or the result is not well-formed or not of the same type, the original
    function is kept and a :class:`RewriteWarning` says what broke: a broken rewrite never reaches
    the user.

    Args:
        module: any, of Relax functions and whatever else.
        rules: in order of preference.
    """
    reports: list[GraphReport] = []
    result = module
    for variable, function in module.functions_items():
        if not isinstance(function, relax.Function) or _owner(function):
            continue
        name = name_of(variable)
        rewriter = _Rewriter(result, rules)
        new = rewriter.function(function, "" if name == "main" else f"{name}.")
        if new is not function:
            try:
                result = _replaced(result, variable, function, new)
            except Exception as error:  # TVM raises errors of many kinds
                rewriter.reports = [_abandon(function, name, "checking the result", error)]
        reports += rewriter.reports
    return Rewritten(result, tuple(reports))


class _Rewriter:
    """Rewrites a function and those inside; ``reports`` has one for each."""

    def __init__(self, module: tvm.IRModule, rules: Sequence[Rule]) -> None:
        self._builder = relax.BlockBuilder(module)
        self._rules = rules
        self.reports: list[GraphReport] = []

    def function(self, function: Expr, prefix: str) -> Expr:
        """The function with another body, or itself."""
        if _owner(function):
            why = f"it stands in a function of {_owner(function)}"
            refusal = Refusal(Code.NESTED_GRAPH, why)
            self.reports.append(_survey(function.body, function.params, prefix, refusal))
            return function
        old = function.body
        body = self._sequence(old, function.params, prefix)
        return function if body.same_as(old) else _with_body(function, body)

    def _sequence(self, body: Expr, parameters: Sequence[Expr], prefix: str) -> Expr:
        """The body rewritten, or itself."""
        try:
            flow = Dataflow(body, parameters)
            if any(map(_on_a_device, flow.values)):
                why = "it places values on devices of their own"
                refusal = Refusal(Code.UNSUPPORTED_FORM, why)
                self.reports.append(_survey(body, parameters, prefix, refusal))
                return body
            lifted = lift(flow, prefix)
        except Exception as error:
            self.reports.append(_abandon(body, prefix, "reading the function", error, parameters))
            return body
        place = len(self.reports)
        nested = self._nested(flow, prefix)
        try:
            values = lifted.constants.arrays.values()
            report = pipeline.run(lifted.graph, self._rules, values)
            changed = report.rewrites or any(map(lifted.is_rewritten, lifted.graph))
            if changed or any(not new.same_as(value.expr) for value, new in nested.items()):
                body = lower(lifted, values, nested, self._builder)
        except Exception as error:
            del self.reports[place:]
            self.reports.append(_abandon(body, prefix, "writing", error, parameters))
            return body
        self.reports.insert(place, report)
        return body

    def _nested(self, flow: Dataflow, prefix: str) -> Mapping[Value, Expr]:
        """What stands for each function or pair of branches inside."""
        found: dict[Value, Expr] = {}
        for count, value in enumerate(v for v in flow.values if v.is_nested):
            expr, name = value.expr, f"{prefix}function_{count}."
            if isinstance(expr, relax.Function):
                expr = self.function(expr, name)
            elif isinstance(expr, relax.If):
                name = f"{prefix}branch_{count}."
                old = (expr.true_branch, expr.false_branch)
                new = [self._sequence(branch, (), name) for branch in old]
                if not all(a.same_as(b) for a, b in zip(old, new, strict=True)):
                    expr = relax.If(expr.cond, *new, expr.span)
            found[value] = expr
        return found


def _with_body(function: Expr, body: Expr) -> Expr:
    kind = function.ret_struct_info if hasattr(function, "ret_struct_info") else function.ret_ty
    return relax.Function(
        function.params, body, kind, function.is_pure, function.attrs, function.span
    )


def _replaced(module: tvm.IRModule, variable: Expr, function: Expr, new: Expr) -> tvm.IRModule:
    """``module`` with another body for one function, if that is well-formed and of its old type."""
    trial = tvm.IRModule(
        dict(module.functions.items()), attrs=module.attrs, global_infos=module.global_infos
    )
    trial.update_func(variable, new)
    trial = relax.transform.Normalize()(trial)
    before, after = type_of(function.body), type_of(trial[variable].body)
    if not same(before, after):
        raise TypeError(f"its type became {after}, it was {before}")
    relax.analysis.well_formed(trial)
    return trial


def _owner(function: Expr) -> str:
    """Whose function it is: a backend's name, or what kind of a match; ``""`` for a user's own."""
    attrs = function.attrs
    names = set(attrs.keys()) if attrs else set()
    for name in _OWNED:
        if name in names and attrs[name]:
            return f"{name} {attrs[name]}"
    return ""


def _on_a_device(value: Value) -> bool:
    return any(getattr(kind, "vdevice", None) is not None for kind in tensor_types(value.kind))


def _survey(body: Expr, parameters: Sequence[Expr], prefix: str, refusal: Refusal) -> GraphReport:
    """A report of a function that is left alone: every BatchNorm kept, for this reason."""
    names = Names(prefix)
    verdicts = tuple(
        Verdict(site_of(value, names.of(value)), Outcome.KEPT, refusals=(refusal,))
        for value in _batch_norms(body, parameters)
    )
    return GraphReport(verdicts)


def _batch_norms(body: Expr, parameters: Sequence[Expr]) -> Iterator[Value]:
    flow = Dataflow(body, parameters)
    for value in flow.values:
        if value.op == "nn.batch_norm":
            yield value
        elif isinstance(value.expr, relax.Function):
            yield from _batch_norms(value.expr.body, value.expr.params)


def _abandon(
    body: Expr, prefix: str, what: str, error: Exception, parameters: Sequence[Expr] = ()
) -> GraphReport:
    message = pipeline.warn_of_failure(error, what, "function")
    if isinstance(body, relax.Function):
        body, parameters = body.body, body.params
    try:
        report = _survey(body, parameters, prefix, Refusal(Code.INTERNAL_ERROR, message))
    except Exception:  # what could not be read cannot be surveyed
        report = GraphReport()
    return replace(report, notes=(message,))
