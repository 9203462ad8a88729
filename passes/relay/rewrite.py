"""The whole way: lift, run the rules, lower. Never raises for a function it cannot rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tvm
from tvm import relay

from bnfx.passes.relay.emit import RelayEmitter
from bnfx.passes.relay.expressions import Expressions, op_name
from bnfx.passes.relay.tables import RELAY
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule
from bnfx.passes.tvm.dataflow import Expr, Value
from bnfx.passes.tvm.lift import LiftedFlow
from bnfx.passes.tvm.lower import lower
from bnfx.passes.tvm.rewrite import FunctionRewriter, RewrittenFunction
from bnfx.passes.values import Values


def rewrite_module(
    module: tvm.IRModule, rules: Sequence[Rule] = RULES, detailed: bool = False
) -> RewrittenFunction:
    """Fold what can be folded in each function of ``module``, which is left untouched.

    If anything raises, or the result is not of the same type, the original function is kept and a
    :class:`RewriteWarning` says what broke: a broken rewrite never reaches the user.

    Args:
        module: any; types are inferred here.
        rules: in order of preference.
        detailed: whether reports have the details that pictures of graphs show.
    """
    typed = relay.transform.InferType()(module)
    result, reports = typed, []
    for variable, function in typed.functions_items():
        if not isinstance(function, relay.Function):
            continue
        prefix = "" if variable.name_hint == "main" else f"{variable.name_hint}."
        rewriter = _RelayRewriter(rules, detailed)
        new = rewriter.function(function, prefix)
        try:
            if not new.same_as(function):
                result = _replaced(result, variable, function, new)
        except Exception as error:  # TVM raises its own DiagnosticError and others
            broken = rewriter.abandon(function, prefix, "checking the types", error)
            rewriter.reports = [broken]
        reports += rewriter.reports
    return RewrittenFunction(result, tuple(reports))


class _RelayRewriter(FunctionRewriter):
    dialect = RELAY
    owners = ("Primitive", "Composite", "Compiler", "ExternalSymbol")

    def read(self, scope: Expr) -> Expressions:
        return Expressions(scope)

    def write(
        self, scope: Expr, lifted: LiftedFlow, values: Values, nested: Mapping[Value, Expr]
    ) -> Expr:
        body = lower(lifted, values, nested, RelayEmitter())
        # The type is inferred anew, and compared: TVM may crash where an annotation disagrees.
        return relay.Function(scope.params, body, None, scope.type_params, scope.attrs)

    def calls(self, scope: Expr) -> Iterator[tuple[Expr, str]]:
        found: list[Expr] = []
        relay.analysis.post_order_visit(scope, found.append)
        yield from ((expr, name) for expr in found if (name := op_name(expr)) is not None)

    def branches(self, expr: Expr) -> Mapping[str, Expr]:
        return {}

    def joined(self, expr: Expr, branches: Sequence[Expr]) -> Expr:
        return expr


def _replaced(module: tvm.IRModule, variable: Expr, function: Expr, new: Expr) -> tvm.IRModule:
    """``module`` with another body for one function, if that has the type it had.

    The type is found under a name that nobody calls: TVM cannot infer what callers do with the
    result of a function whose own type is not known yet.
    """
    name, taken = "anew", {other.name_hint for other in module.get_global_vars()}
    while name in taken:
        name += "_"
    alone = relay.GlobalVar(name)
    trial = _with(module, alone, new)
    before, after = function.checked_type, trial[alone].checked_type
    if not tvm.ir.structural_equal(before, after):
        raise TypeError(f"its type became {after}, it was {before}")
    typed = relay.Function(new.params, new.body, after.ret_type, new.type_params, new.attrs)
    return _with(module, variable, typed)


def _with(module: tvm.IRModule, variable: Expr, function: Expr) -> tvm.IRModule:
    trial = tvm.IRModule(module.functions, module.type_definitions, attrs=module.attrs)
    trial.update_func(variable, function)
    # In a context of its own: one that a failed pass was in has no diagnostics left, and the pass
    # around this one would crash TVM when it looks for them.
    with tvm.transform.PassContext():
        return relay.transform.InferType()(trial)
