"""The whole way: lift, run the rules, lower. Never raises for a function it cannot rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import tvm
from tvm import relay

from bnfx.passes import pipeline
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relay.expressions import Expr, UnreadableFunctionError, op_name
from bnfx.passes.relay.lift import lift
from bnfx.passes.relay.lower import lower
from bnfx.passes.relay.sites import Names, site_of
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule

# Functions that somebody matched for a code generator of their own, which knows them as they are.
_OWNED = ("Primitive", "Composite", "Compiler", "ExternalSymbol")


@dataclass(frozen=True)
class Rewritten:
    """A rewritten module, and a report for each of its functions."""

    module: tvm.IRModule
    reports: tuple[GraphReport, ...]


def rewrite_module(module: tvm.IRModule, rules: Sequence[Rule] = RULES) -> Rewritten:
    """Fold what can be folded in each function of ``module``, which is left untouched.

    If anything raises, or the result is not of the same type, the original function is kept and a
    :class:`RewriteWarning` says what broke: a broken rewrite never reaches the user.

    Args:
        module: any; types are inferred here.
        rules: in order of preference.
    """
    typed = relay.transform.InferType()(module)
    result, reports = typed, []
    for variable, function in typed.functions_items():
        if not isinstance(function, relay.Function) or _owner(function):
            continue
        prefix = "" if variable.name_hint == "main" else f"{variable.name_hint}."
        new, report = _rewrite(function, prefix, rules)
        try:
            if not new.same_as(function):
                result = _replaced(result, variable, function, new)
        except Exception as error:  # TVM raises its own DiagnosticError and others
            report = [_abandon(function, prefix, "checking the types", error)]
        reports += report
    return Rewritten(result, tuple(reports))


def _rewrite(function: Expr, prefix: str, rules: Sequence[Rule]) -> tuple[Expr, list[GraphReport]]:
    """The function, and those inside it, rewritten; a report for each that has something to say."""
    if _owner(function):
        why = f"it stands in a function of {_owner(function)}"
        return function, [_survey(function, prefix, Refusal(Code.NESTED_GRAPH, why))]
    try:
        lifted = lift(function, prefix)
    except UnreadableFunctionError as error:
        return function, [_survey(function, prefix, Refusal(Code.NESTED_GRAPH, str(error)))]
    except Exception as error:
        return function, [_abandon(function, prefix, "reading the function", error)]
    reports: list[GraphReport] = []
    functions: dict[Expr, Expr] = {}
    for count, inner in enumerate(lifted.flow.functions):
        new, some = _rewrite(inner, f"{prefix}function_{count}.", rules)
        functions[inner] = new
        reports += some
    try:
        values = lifted.arrays.values()
        report = pipeline.run(lifted.graph, rules, values)
        changed = any(map(lifted.is_rewritten, lifted.graph)) or report.rewrites
        inside = any(not new.same_as(old) for old, new in functions.items())
        if changed or inside:
            function = _with_body(function, lower(lifted, values, functions))
    except Exception as error:
        return function, [*reports, _abandon(function, prefix, "the rewrite", error)]
    return function, [report, *reports]


def _with_body(function: Expr, body: Expr) -> Expr:
    # The result's type is inferred anew, and compared: TVM may crash where an annotation disagrees.
    return relay.Function(function.params, body, None, function.type_params, function.attrs)


def _replaced(module: tvm.IRModule, variable: Expr, function: Expr, new: Expr) -> tvm.IRModule:
    """``module`` with another body for one function, if that has the type it had."""
    trial = tvm.IRModule(module.functions, module.type_definitions, attrs=module.attrs)
    trial.update_func(variable, new)
    trial = relay.transform.InferType()(trial)
    before, after = function.checked_type, trial[variable].checked_type
    if not tvm.ir.structural_equal(before, after):
        raise TypeError(f"its type became {after}, it was {before}")
    return trial


def _owner(function: Expr) -> str:
    """Whose function it is: a backend's name, or what kind of a match; ``""`` for a user's own."""
    attrs = function.attrs
    names = set(attrs.keys()) if attrs else set()
    for name in _OWNED:
        if name in names:
            return f"{name} {attrs[name]}"
    return ""


def _survey(function: Expr, prefix: str, refusal: Refusal) -> GraphReport:
    """A report of a function that is left alone: every BatchNorm kept, for this reason."""
    names = Names(prefix)
    verdicts = tuple(
        Verdict(site_of(expr, names.of(expr)), Outcome.KEPT, refusals=(refusal,))
        for expr in _batch_norms(function)
    )
    return GraphReport(verdicts)


def _batch_norms(function: Expr) -> Iterator[Expr]:
    found: list[Expr] = []
    relay.analysis.post_order_visit(function, found.append)
    yield from (expr for expr in found if op_name(expr) == "nn.batch_norm")


def _abandon(function: Expr, prefix: str, what: str, error: Exception) -> GraphReport:
    message = pipeline.warn_of_failure(error, what, "function")
    report = _survey(function, prefix, Refusal(Code.INTERNAL_ERROR, message))
    return replace(report, notes=(message,))
