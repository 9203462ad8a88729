"""Which names an expression that is a name may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

ANY = re.compile(r".*", re.DOTALL)
_NAMED: tuple[type[ast.AST], ...] = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NAMED += (ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping)
# These bind an attribute, or take it away, by a name.
REBINDING = frozenset(
    ["add_module", "register_module", "set_submodule", "__setattr__", "__delattr__"]
)


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
    binds = [n for n in ast.walk(scope) if isinstance(n, (ast.Name)) and n.id == node.id]
    stores = [n for n in binds if not isinstance(n.ctx, ast.Load)]
    loops = [n for n in ast.walk(scope) if isinstance(n, (ast.For, ast.comprehension))]
    sources = [loop.iter for loop in loops if any(loop.target is n for n in stores)]
    bound = set(bound_otherwise(scope))
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


def bindings(function: ast.AST) -> Iterator[str]:
    """The names that are arguments or bound, in a function or those in it, once for each place."""
    yield from bound_otherwise(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def bound_otherwise(function: ast.AST) -> Iterator[str]:
    """Those that are bound otherwise than by assignment: arguments, imports, patterns, ..."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif node is not function and isinstance(node, _NAMED):
            yield getattr(node, "rest" if isinstance(node, ast.MatchMapping) else "name") or ""


def is_of(node: ast.AST | None, owner: str) -> bool:
    """Whether an expression is an object of that name, or an attribute of it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == owner
