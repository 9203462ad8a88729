"""The whole way in either IR: lift, run the rules, lower; what cannot be rewritten stays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnfx.passes import pipeline
from bnfx.passes.lifting.op_lists import run_detailed
from bnfx.passes.lifting.survey import abandoned, kept
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Site
from bnfx.passes.rules.rule import Rule
from bnfx.passes.tvm.dataflow import Dataflow, Expr, UnreadableFunctionError, Value, ValueForm
from bnfx.passes.tvm.dialect import Dialect
from bnfx.passes.tvm.lift import LiftedFlow, lift
from bnfx.passes.tvm.pictures.norm_values import norm_numbers
from bnfx.passes.tvm.pictures.shown_ops import name_ops
from bnfx.passes.tvm.sites import Names, site_of
from bnfx.passes.values import Values


@dataclass(frozen=True)
class RewrittenFunction:
    """A rewritten module, and a report for each of its functions."""

    module: Any
    reports: tuple[GraphReport, ...]


class FunctionRewriter(ABC):
    """Rewrites functions and those inside of them.

    A scope is what has bindings of its own: a function, or one branch.

    Attributes:
        dialect: of the IR.
        owners: attributes of functions that somebody matched for a code generator of their own,
            which knows them as they are.
        reports: one a scope; with the details that pictures show, if these are asked for.
    """

    dialect: Dialect
    owners: Collection[str]

    def __init__(self, rules: Sequence[Rule], detailed: bool) -> None:
        self._rules = rules
        self._detailed = detailed
        self.reports: list[GraphReport] = []

    @abstractmethod
    def read(self, scope: Expr) -> Dataflow:
        """The values of a scope.

        Raises:
            UnreadableFunctionError: if it is to be left alone, saying why.
        """

    @abstractmethod
    def write(
        self, scope: Expr, lifted: LiftedFlow, values: Values, nested: Mapping[Value, Expr]
    ) -> Expr:
        """The scope with the body that the rewritten graph describes."""

    @abstractmethod
    def calls(self, scope: Expr) -> Iterator[tuple[Expr, str]]:
        """Each call of an operator in a scope and all inside, with its name."""

    @abstractmethod
    def branches(self, expr: Expr) -> Mapping[str, Expr]:
        """The scopes of an expression that holds some, named; none for a function."""

    @abstractmethod
    def joined(self, expr: Expr, branches: Sequence[Expr]) -> Expr:
        """The expression with other branches."""

    def function(self, function: Expr, prefix: str) -> Expr:
        """The function with another body, or itself."""
        owner = self._owner(function)
        if owner:
            refusal = Refusal(Code.NESTED_GRAPH, f"it stands in a function of {owner}")
            self.reports.append(self.survey(function, prefix, refusal))
            return function
        return self._scope(function, prefix)

    def survey(self, scope: Expr, prefix: str, refusal: Refusal) -> GraphReport:
        """A report of a scope that is left alone: every BatchNorm kept, for this reason."""
        return kept(((site, ()) for site in self._batch_norms(scope, prefix)), refusal)

    def abandon(self, scope: Expr, prefix: str, what: str, error: Exception) -> GraphReport:
        """A report of a scope that could not be rewritten; call it in ``except``."""
        return abandoned(error, what, "function", lambda why: self.survey(scope, prefix, why))

    def _scope(self, scope: Expr, prefix: str) -> Expr:
        try:
            lifted = lift(self.read(scope), self.dialect, prefix)
        except UnreadableFunctionError as error:
            self.reports.append(self.survey(scope, prefix, error.refusal))
            return scope
        except Exception as error:  # TVM raises errors of many kinds
            self.reports.append(self.abandon(scope, prefix, "reading the function", error))
            return scope
        place = len(self.reports)
        try:
            inside = self._inside(lifted.flow, prefix)
            values = lifted.constants.numbers()
            report = self._run(lifted, values)
            if report.rewrites or any(not new.same_as(value.expr) for value, new in inside.items()):
                scope = self.write(scope, lifted, values, inside)
        except Exception as error:
            del self.reports[place:]
            self.reports.append(self.abandon(scope, prefix, "the rewrite", error))
            return scope
        self.reports.insert(place, report)
        return scope

    def _run(self, lifted: LiftedFlow, values: Values) -> GraphReport:
        """Apply the rules; the report has details if asked for."""
        if not self._detailed:
            return pipeline.run(lifted.graph, self._rules, values)
        name_ops(lifted)
        return run_detailed(lifted.graph, self._rules, values, norm_numbers(lifted, values))

    def _inside(self, flow: Dataflow, prefix: str) -> Mapping[Value, Expr]:
        """What stands for each function or pair of branches inside."""
        found: dict[Value, Expr] = {}
        for count, value in enumerate(v for v in flow.values if v.form is ValueForm.NESTED):
            branches = self.branches(value.expr)
            if not branches:
                found[value] = self.function(value.expr, f"{prefix}function_{count}.")
                continue
            new = [
                self._scope(branch, f"{prefix}branch_{count}.{name}.")
                for name, branch in branches.items()
            ]
            pairs = zip(new, branches.values(), strict=True)
            same = all(one.same_as(other) for one, other in pairs)
            found[value] = value.expr if same else self.joined(value.expr, new)
        return found

    def _batch_norms(self, scope: Expr, prefix: str) -> Iterator[Site]:
        names = Names(prefix)
        for expr, op in self.calls(scope):
            if op == "nn.batch_norm":
                yield site_of(expr, names.of_call(expr, op, expr.args))

    def _owner(self, function: Expr) -> str:
        """A backend's name, or what kind of a match; ``""`` for a user's own."""
        attrs = function.attrs
        names = set(attrs.keys()) if attrs else set()
        found = (name for name in self.owners if name in names and attrs[name])
        return next((f"{name} {attrs[name]}" for name in found), "")
