"""Whether one function that ran with symbols may have looked at one.

A symbol notes most of what it is asked, or cannot answer: its truth, length, elements, class. What
it says no word of is ``is``, ``type``, ``callable`` and ``hasattr``, what it prints as, and what a
function in C does. So what code may consist of is listed, names lead to objects that are known, and
what of these four has to do with a symbol is refused.
"""

from __future__ import annotations

import ast
import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bnfx.folding.capturing.traced.attribute_rules import is_harmless, is_harmless_getattr
from bnfx.folding.capturing.traced.name_rules import SCOPED, NameRules
from bnfx.folding.capturing.traced.parts_of_code import FUNCTIONS
from bnfx.folding.capturing.traced.symbol_free import LOOKING, TEXTS, SymbolFree
from bnfx.folding.capturing.traced.traced_names import (
    UNKNOWN,
    TracedNames,
    attribute_of,
    is_traced_through,
)
from bnfx.folding.modules.plain.syntax import NODES

_NODES: tuple[type[ast.AST], ...] = (
    *NODES,
    ast.DictComp,
    ast.SetComp,
    ast.Set,
    ast.NamedExpr,
    ast.While,
    ast.Delete,
)
_NODES += (*FUNCTIONS, ast.arguments, ast.arg)
_OF_TEXT = (ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.Tuple, ast.IfExp, ast.keyword)


class TracedCode:
    """Reads one run of a function."""

    def __init__(self, names: TracedNames) -> None:
        self._names, self._bindings, self._free = names, names.bindings, SymbolFree(names)
        self._rules = NameRules(names)

    def line(self) -> int | None:
        """The first line of what may have looked at a symbol."""
        if self._names.run.unknown is not None:
            return self._line_of(self._names.run.unknown)
        for node in self._bindings.nodes:
            if not isinstance(node, _NODES) or not self._is_seen(node):
                return (
                    _line(node)
                    or _line(self._bindings.parents.get(node))
                    or _line(self._bindings.tree)
                )
        return None

    def _line_of(self, name: str) -> int | None:
        named = (n for n in self._bindings.nodes if isinstance(n, ast.Name) and n.id == name)
        return next(map(_line, named), _line(self._bindings.tree))

    def _is_seen(self, node: ast.AST) -> bool:
        """Whether it is clear that it looks at no symbol."""
        rule = _RULES.get(type(node))
        return rule is None or rule(self, node)

    def _compare(self, node: Any) -> bool:
        if not any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return True
        sides = [node.left, *node.comparators]
        return all(map(self._free.is_no_symbol, sides)) or self._asks_modules(sides)

    def _asks_modules(self, sides: list[ast.expr]) -> bool:
        """``layer.bias is None``, which is so for a parameter's symbol as for the parameter."""
        names, (asked, *others) = self._names, sides
        if not isinstance(asked, ast.Attribute) or asked.attr in names.facts.stored:
            return False
        layers = names.modules_of(asked.value)
        held = bool(layers) and all(attribute_of(m, asked.attr) is not UNKNOWN for m in layers)
        return held and all(isinstance(each, ast.Constant) for each in others)

    def _text(self, node: Any) -> bool:
        return self._free.is_free(node.value) or self._is_told(node)

    def _mod(self, node: Any) -> bool:
        if not isinstance(node.op, ast.Mod):
            return True
        sides = list(ast.iter_child_nodes(node))
        number = any(
            isinstance(s, ast.Constant) and not isinstance(s.value, (str, bytes)) for s in sides
        )
        return number or self._free.is_free(sides[-1]) or self._is_told(node)

    def _is_told(self, node: ast.AST) -> bool:
        """Whether an error, a warning, ``torch._assert`` or ``print`` says it, and nobody else."""
        parents, kept, above = self._bindings.parents, True, self._bindings.parents.get(node)
        while above is not None and not isinstance(above, ast.stmt):
            if isinstance(above, ast.Call) and above.func is not node and kept:
                value = self._names.value_of(above.func)
                first = bool(above.args) and above.args[0] is node
                if (value is torch._assert and not first) or value is warnings.warn:
                    return True
                if self._bindings.is_builtin(above, "print"):
                    return True
            made = isinstance(above, ast.Attribute) and above.attr == "format"
            called = isinstance(above, ast.Call) and getattr(above.func, "attr", "") == "format"
            error = isinstance(above, ast.Call) and isinstance(parents.get(above), ast.Raise)
            kept = kept and (made or called or error or isinstance(above, _OF_TEXT))
            node, above = above, parents.get(above)
        failed = isinstance(above, ast.Assert) and above.msg is node
        return kept and (failed or isinstance(above, ast.Raise))

    def _with(self, node: Any) -> bool:
        call = node.context_expr
        entered = self._names.value_of(call.func) if isinstance(call, ast.Call) else UNKNOWN
        named = node.optional_vars is not None  # a switch tells of the mode before
        return any(entered is each for each in ((contextlib.nullcontext,) if named else SCOPED))

    def _call(self, node: ast.Call) -> bool:
        given = [*node.args, *(each.value for each in node.keywords)]
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "format_map"):
            return all(map(self._free.is_free, [node.func.value, *given])) or self._is_told(node)
        if not isinstance(node.func, ast.Name) or self._bindings.is_own(node.func.id):
            return True
        name = node.func.id
        if name == "isinstance" and self._names.run.is_torchs:
            return self._free.is_no_symbol(given[0])  # which says so to users' code only
        if name == "getattr" and not is_harmless_getattr(self._names, node):
            return False
        if name == "hasattr" or (name == "getattr" and len(given) > 2):
            return len(node.args) > 1 and self._names.asks_truly(node)
        if name in LOOKING:
            return bool(given) and all(map(self._free.is_no_symbol, given[: LOOKING[name]]))
        if name in TEXTS:
            return all(map(self._free.is_free, given)) or self._is_told(node)
        if name == "print":
            return all(each.arg in ("sep", "end", "flush") for each in node.keywords)
        return True

    def _attribute(self, node: ast.Attribute) -> bool:
        held = self._names.value_of(node.value)
        if not is_harmless(held, node.attr):
            return False
        if not isinstance(node.ctx, ast.Load):
            return self._may_set(node, held)
        if node.attr == "_modules":  # to read, and not to have by another name
            above = self._bindings.parents.get(node)
            read = isinstance(above, ast.Attribute) and above.attr in ("items", "values", "keys")
            return read or (isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Load))
        if node.attr in ("format", "format_map") and not isinstance(held, nn.Module):
            call = self._bindings.parents.get(node)
            return isinstance(call, ast.Call) and call.func is node
        return True

    def _may_set(self, node: ast.Attribute, held: Any) -> bool:
        """Not attributes of layers, which no code reads that runs here."""
        if hasattr(nn.Module, node.attr):
            return False
        if isinstance(held, nn.Module):
            return is_traced_through(held, self._names.facts)
        name = getattr(node.value, "id", None)
        own = name in self._bindings.given and not self._bindings.bound.get(name)
        return own and name in self._names.run.objects


def _line(node: Any) -> int | None:
    return getattr(node, "lineno", None)


_RULES: dict[type[ast.AST], Callable[[TracedCode, Any], bool]] = {
    ast.Compare: TracedCode._compare,
    ast.FormattedValue: TracedCode._text,
    ast.BinOp: TracedCode._mod,
    ast.AugAssign: TracedCode._mod,
    ast.withitem: TracedCode._with,
    ast.Call: TracedCode._call,
    ast.Name: lambda code, node: code._rules.is_known(node),
    ast.Attribute: TracedCode._attribute,
}
