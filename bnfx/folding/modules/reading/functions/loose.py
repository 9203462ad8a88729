"""Methods that may be given an object of another class than the one that has them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from bnfx.folding.capturing.asking.shown_text import called_name
from bnfx.folding.modules.reading.dependence import parents_of
from bnfx.folding.modules.reading.functions.naming import resolve_global

_MADE_OF = (ast.Tuple, ast.List, ast.Dict, ast.IfExp, ast.BoolOp, ast.Starred, ast.Lambda)
_PASSING = (
    ast.Assign,
    ast.NamedExpr,
    ast.For,
    ast.comprehension,
    ast.keyword,
    ast.Return,
    *_MADE_OF,
)
_ASKING = ("isinstance", "issubclass", "super", "cast")


def loose(functions: Sequence[Any], held: Collection[type]) -> list[int]:
    """The places of methods that are called by a class: of one that is held or passed on, or by
    ``type(self.other).run(self.block)``.
    """
    kinds, names = set(held), set()
    for function in functions:
        parents = parents_of(function.node)
        for node in ast.walk(function.node):
            if isinstance(node, ast.Name) and not _is_plain(node, parents):
                kinds |= set(_classes(function, node))
            if isinstance(node, ast.Attribute) and _is_type(node.value):
                names.add(node.attr)
    bases = {base for kind in kinds for base in kind.__mro__}
    return [
        place
        for place, function in enumerate(functions)
        if function.kind in bases or (function.kind and function.function.__name__ in names)
    ]


def _classes(function: Any, node: ast.Name) -> Iterator[type]:
    value = resolve_global(function.function, node)
    if isinstance(value, type):
        yield value


def _is_plain(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a class is only called, asked for an attribute, compared, or stated as a type."""
    above = parents.get(node)
    if isinstance(above, ast.Tuple):
        above = parents.get(above)
    if isinstance(above, ast.Call) and above.func is not node:
        return called_name(above) in _ASKING
    return not isinstance(above, _PASSING)


def _is_type(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "__class__"
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "type"
