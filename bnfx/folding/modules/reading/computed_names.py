"""Which names an expression that is a name may be."""

from __future__ import annotations

import ast
import re

ANY = re.compile(r".*", re.DOTALL)
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


def pattern(node: ast.AST) -> re.Pattern[str]:
    """What a computed name can be."""
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


def bound_names(function: ast.AST) -> set[str]:
    """All names that are arguments or assigned, in a function or in those in it."""
    names = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Name))
    return names | {n.id for n in stored if not isinstance(n.ctx, ast.Load)}


def is_of(node: ast.AST | None, owner: str) -> bool:
    """Whether an expression is an object of that name, or an attribute of it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == owner
