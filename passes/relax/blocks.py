"""Writes binding blocks: which block a binding goes to, and what kind of a variable it binds."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from bnfx.passes.relax.compat import Expr, name_of, type_of
from bnfx.passes.relax.expressions import Bindings, Value


class Blocks:
    """The new bindings of one sequence, in blocks as they were.

    Args:
        flow: the old ones.
        builder: a ``relax.BlockBuilder``, which infers types.
    """

    def __init__(self, flow: Bindings, builder: Expr) -> None:
        self._flow = flow
        self._normalize = builder.normalize
        self._bindings: list[list[Expr]] = [[] for _ in flow.blocks]
        self._aliased: set[Expr] = set()

    def copy(self, value: Value, expr: Expr) -> Expr:
        """Bind an old value's variable, to ``expr`` in place of what it was.

        Returns:
            What its readers read: the variable, or the expression where it is an operand in place.
        """
        old = value.binding
        if expr is not value.expr:
            expr = self._normalize(expr)
        if old is None:
            return expr
        if expr is value.expr:
            new = old
        elif isinstance(old, relax.MatchCast):
            new = relax.MatchCast(old.var, expr, type_of(old.var), old.span)
        else:
            new = relax.VarBinding(old.var, expr, old.span)
        self._bindings[value.block].append(new)
        return old.var

    def nested(self, value: Value, reads: Sequence[tuple[Expr, Expr]], expr: Expr) -> Expr:
        """Bind a function, or branches, that read variables by their old names.

        Args:
            reads: each of the variables, with what it is now.
        """
        for variable, new in reads:
            moved = isinstance(variable, relax.Var) and not new.same_as(variable)
            if moved and variable not in self._aliased:
                self._aliased.add(variable)
                self._bindings[value.block].append(relax.VarBinding(variable, new))
        assert value.binding is not None, "in normal form it has a name"
        self._bindings[value.block].append(relax.VarBinding(value.binding.var, expr))
        return value.binding.var

    def step(self, expr: Expr, place: Value) -> Expr:
        """Bind what is read by the next step alone, where it is not bound already."""
        if isinstance(expr, relax.Var):
            return expr
        return self.bind(expr, place, ())

    def bind(self, expr: Expr, place: Value, old: Sequence[Value]) -> Expr:
        """Bind what is new in the place of ``place``.

        Args:
            old: the values for which it stands; ones that are read outside of their block are
                why it must be so too.
        """
        expr = self._normalize(expr)
        variables = [value.binding.var for value in old if value.binding is not None]
        inside = self._flow.is_dataflow(place) and all(
            isinstance(variable, relax.DataflowVar) for variable in variables
        )
        kind = relax.DataflowVar if inside else relax.Var
        name = name_of(variables[-1]) if variables else "lv"
        variable = kind(name, type_of(expr))
        self._bindings[place.block].append(relax.VarBinding(variable, expr))
        return variable

    def sequence(self, body: Expr) -> Expr:
        """All of it, with ``body`` as the result."""
        blocks = []
        for old, bindings in zip(self._flow.blocks, self._bindings, strict=True):
            inside = isinstance(old, relax.DataflowBlock)
            if bindings:
                blocks.append((relax.DataflowBlock if inside else relax.BindingBlock)(bindings))
        return relax.SeqExpr(blocks, body)
