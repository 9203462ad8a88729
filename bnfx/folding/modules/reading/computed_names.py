"""Which names an expression that is a name may be."""

from __future__ import annotations

import ast
import re
from typing import Any

ANY = re.compile(r".*", re.DOTALL)
# These bind an attribute, or take it away, by a name.
REBINDING = frozenset(
    ["add_module", "register_module", "set_submodule", "__setattr__", "__delattr__"]
)

_NAMED: tuple[Any, ...] = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NAMED += (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)


def exactly(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name))


def attribute(name: str) -> re.Pattern[str]:
    """What an attribute written so is called: in a class, ``__name`` becomes ``_Class__name``."""
    private = name.startswith("__") and not name.endswith("__")
    return re.compile(r"(_\w+)?" + re.escape(name)) if private else exactly(name)


def _listed(node: ast.AST, scope: ast.AST | None) -> list[str] | None:
    """What a name is that runs through written-out strings, and is bound nowhere else."""
    if scope is None or not isinstance(node, ast.Name):
        return None
    if any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(scope)):
        return None
    arguments = {n.arg for n in ast.walk(scope) if isinstance(n, ast.arg)}
    binds = [n for n in ast.walk(scope) if isinstance(n, (ast.Name)) and n.id == node.id]
    stores = [n for n in binds if not isinstance(n.ctx, ast.Load)]
    loops = [n for n in ast.walk(scope) if isinstance(n, (ast.For, ast.comprehension))]
    sources = [loop.iter for loop in loops if any(loop.target is n for n in stores)]
    bound = arguments | other_names(scope)
    if node.id in bound or not stores or len(sources) != len(stores):
        return None
    found: list[str] = []
    for source in sources:
        values = [source]
        if isinstance(source, ast.Name):
            all_names = [n for n in ast.walk(scope) if isinstance(n, ast.Name)]
            stored = [n for n in all_names if n.id == source.id and not isinstance(n.ctx, ast.Load)]
            assigns = [n for n in ast.walk(scope) if isinstance(n, ast.Assign)]
            values = [a.value for a in assigns if any(t is n for t in a.targets for n in stored)]
            if source.id in bound or not stored or len(values) != len(stored):
                return None
        for value in values:
            if _is_slice_of(value, source):
                continue
            if not isinstance(value, ast.Tuple):
                return None
            for each in value.elts:
                if not isinstance(each, ast.Constant) or not isinstance(each.value, str):
                    return None
                found.append(each.value)
    return found


def _is_slice_of(value: ast.AST, source: ast.AST) -> bool:
    return (
        isinstance(value, ast.Subscript)
        and isinstance(value.slice, ast.Slice)
        and ast.dump(value.value) == ast.dump(source).replace("Store()", "Load()")
    )


def pattern(node: ast.AST, scope: ast.AST | None = None) -> re.Pattern[str]:
    """What a computed name can be."""
    if (names := _listed(node, scope)) is not None:
        return re.compile("|".join(map(re.escape, names)))
    if isinstance(node, ast.Constant):
        return exactly(str(node.value))
    if isinstance(node, ast.JoinedStr):
        parts = (
            re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".*" for v in node.values
        )
        return re.compile("".join(parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return re.compile(pattern(node.left).pattern + pattern(node.right).pattern)
    return ANY


def other_names(scope: ast.AST) -> set[str]:
    """Names that are bound otherwise than by assignment, as by an import or a pattern."""
    found: set[str | None] = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.MatchMapping):
            found.add(node.rest)
        elif isinstance(node, _NAMED) and node is not scope:
            found.add(node.name)
    return {name for name in found if name is not None}


def bound_names(function: ast.AST) -> set[str]:
    """All names that are bound, in a function or in those in it."""
    names = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)} | other_names(function)
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Name))
    return names | {n.id for n in stored if not isinstance(n.ctx, ast.Load)}


def is_of(node: ast.AST | None, owner: str) -> bool:
    """Whether an expression is an object of that name, or an attribute of it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == owner
