"""Text that code makes of what it is given, and whether it is only for people."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

SAID = frozenset(["print", "warn", "warning", "info", "debug"])


def formatted(node: Any) -> list[ast.AST] | None:
    """What is made text of, which says of a proxy how it prints."""
    if isinstance(node, ast.FormattedValue):
        return [node.value]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and _is_text(node.left):
        return [node.right]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        made = node.func.attr == "format" and _is_text(node.func.value)
        return arguments(node) if made else None
    return None


def said(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in an error, a warning, or a line that is printed."""
    if isinstance(node, ast.Raise):
        yield from ast.walk(node)
    elif isinstance(node, ast.Assert) and node.msg is not None:
        yield from ast.walk(node.msg)
    elif isinstance(node, ast.Call):
        yield from ast.walk(node) if called_name(node) in SAID | {"_assert"} else ()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def called_name(call: ast.Call) -> str:
    """The name, or that of the attribute, that is called; ``""`` for another expression."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def arguments(call: ast.Call) -> list[ast.AST]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]
