"""The whole way: lift, run the rules, lower. Never raises for a function it cannot rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tvm
from tvm import relax

from bnfx.passes.refusals import Code
from bnfx.passes.relax.compat import Expr, name_of, same, tensor_types, type_of
from bnfx.passes.relax.emit import RelaxEmitter
from bnfx.passes.relax.expressions import Bindings, op_name
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule
from bnfx.passes.tvm.dataflow import UnreadableFunctionError, Value
from bnfx.passes.tvm.lift import LiftedFlow
from bnfx.passes.tvm.lower import lower
from bnfx.passes.tvm.rewrite import FunctionRewriter, RewrittenFunction
from bnfx.passes.values import Values


def rewrite_module(
    module: tvm.IRModule, rules: Sequence[Rule] = RULES, detailed: bool = False
) -> RewrittenFunction:
    """Fold what can be folded in each Relax function of ``module``, which is left untouched.

    If anything raises, or the result is not well-formed or not of the same type, the original
    function is kept and a :class:`RewriteWarning` says what broke: a broken rewrite never reaches
    the user.

    Args:
        module: any, of Relax functions and whatever else.
        rules: in order of preference.
        detailed: whether reports have the details that pictures of graphs show.
    """
    reports = []
    result = normal = normalised(module)
    for variable, function in normal.functions_items():
        if not isinstance(function, relax.Function):
            continue
        prefix = "" if name_of(variable) == "main" else f"{name_of(variable)}."
        rewriter = _RelaxRewriter(result, rules, detailed)
        new = rewriter.function(function, prefix)
        if new is not function:
            try:
                result = _replaced(result, variable, function, new)
            except Exception as error:  # TVM raises errors of many kinds
                broken = rewriter.abandon(function, prefix, "checking the result", error)
                rewriter.reports = [broken]
        reports += rewriter.reports
    return RewrittenFunction(module if result is normal else result, tuple(reports))


class _RelaxRewriter(FunctionRewriter):
    dialect = RELAX
    owners = ("Primitive", "Composite", "Codegen")

    def __init__(self, module: tvm.IRModule, rules: Sequence[Rule], detailed: bool) -> None:
        super().__init__(rules, detailed)
        self._builder = relax.BlockBuilder(module)

    def read(self, scope: Expr) -> Bindings:
        body, parameters = scope, ()
        if isinstance(scope, relax.Function):
            body, parameters = scope.body, scope.params
        flow = Bindings(body, parameters)
        kinds = (kind for value in flow.values for kind in tensor_types(value.kind))
        if any(getattr(kind, "vdevice", None) is not None for kind in kinds):
            why = "it places values on devices of their own"
            raise UnreadableFunctionError(why, Code.UNSUPPORTED_FORM)
        return flow

    def write(
        self, scope: Expr, lifted: LiftedFlow, values: Values, nested: Mapping[Value, Expr]
    ) -> Expr:
        assert isinstance(lifted.flow, Bindings)
        body = lower(lifted, values, nested, RelaxEmitter(lifted.flow, self._builder))
        if not isinstance(scope, relax.Function):
            return body
        old = hasattr(scope, "ret_struct_info")
        kind = scope.ret_struct_info if old else scope.ret_ty
        return relax.Function(scope.params, body, kind, scope.is_pure, scope.attrs, scope.span)

    def calls(self, scope: Expr) -> Iterator[tuple[Expr, str]]:
        found: list[tuple[Expr, str]] = []

        def visit(expr: Expr) -> None:
            if (name := op_name(expr)) is not None:
                found.append((expr, name))

        relax.analysis.post_order_visit(scope, visit)
        yield from found

    def branches(self, expr: Expr) -> Mapping[str, Expr]:
        if isinstance(expr, relax.If):
            return {"then": expr.true_branch, "else": expr.false_branch}
        return {"body": expr} if isinstance(expr, relax.SeqExpr) else {}

    def joined(self, expr: Expr, branches: Sequence[Expr]) -> Expr:
        if isinstance(expr, relax.If):
            return relax.If(expr.cond, *branches, expr.span)
        return branches[0]


def normalised(module: tvm.IRModule) -> tvm.IRModule:
    """``module``, or a copy where each value has a name and a type.

    Types are noted in the expressions, so it is not the caller's that are given some.
    """
    others = [
        variable
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function) and not _is_normal(function)
    ]
    if not others:
        return module
    try:
        copies = {each: relax.utils.copy_with_new_vars(module[each]) for each in others}
        functions = {**dict(module.functions.items()), **copies}
        copy = tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)
    except tvm.error.InternalError:  # 0.25 asks each value for its type
        copy = tvm.ir.load_json(tvm.ir.save_json(module))
    return relax.transform.Normalize()(copy)


def _is_normal(function: Expr) -> bool:
    """Whether each call has a type, and reads no call."""
    normal = _is_typed(function.body)

    def visit(expr: Expr) -> None:
        nonlocal normal
        if isinstance(expr, (relax.Call, relax.TupleGetItem, relax.Var, relax.If, relax.SeqExpr)):
            inner = any(isinstance(arg, relax.Call) for arg in getattr(expr, "args", ()))
            whole = isinstance(getattr(expr, "tuple_value", None), relax.Call)
            normal = normal and _is_typed(expr) and not inner and not whole

    relax.analysis.post_order_visit(function, visit)
    return normal


def _is_typed(expr: Expr) -> bool:
    return type_of(expr) is not None and type(type_of(expr)) is not tvm.ir.Type


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
