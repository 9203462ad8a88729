"""Loops that call each module of a container, and other ways to run modules whole."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from bnfx.folding.modules.plain.library import runs_in_order

if TYPE_CHECKING:
    from bnfx.folding.modules.plain.plain_function import PlainFunction


def goes_through(function: PlainFunction, node: ast.Attribute) -> bool:
    """``for name, layer in table.items(): x = layer(x)``, of a ``ModuleDict``."""
    call = function.parents.get(node)
    loop = function.parents.get(call) if isinstance(call, ast.Call) else None
    if not isinstance(loop, (ast.For, ast.comprehension)) or loop.iter is not call:
        return False
    target: ast.AST | None = loop.target if node.attr == "values" else None
    if node.attr == "items" and isinstance(loop.target, ast.Tuple):
        target = loop.target.elts[-1]
    return isinstance(target, ast.Name) and is_only_run(function, target.id)


def is_only_run(function: PlainFunction, name: str) -> bool:
    """Whether whatever has that local name is called, and nothing else is done with it."""
    uses = [n for n in function.parents if isinstance(n, ast.Name) and n.id == name]
    if any(isinstance(function.parents[n], ast.AugAssign) for n in uses):
        return False
    return all(runs(function, n) for n in uses if isinstance(n.ctx, ast.Load))


def runs(function: PlainFunction, node: ast.AST) -> bool:
    """Whether a module is called there, or handed to what runs it, or a list of them, whole."""
    around = function.parents.get(node)
    if isinstance(around, ast.Call) and around.func is node:
        return True
    if isinstance(around, (ast.List, ast.Tuple)):
        node, around = around, function.parents.get(around)
    if not isinstance(around, ast.Call) or not around.args or around.args[0] is not node:
        return False
    return runs_in_order(function.value_of(around.func))
