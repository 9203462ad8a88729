"""What plain code does with a module that it names."""

from __future__ import annotations

import ast
import enum

from torch import nn

from bnfx.folding.modules.containers import has_no_forward
from bnfx.folding.modules.plain.loops import goes_through, is_only_run, runs
from bnfx.folding.modules.plain.plain_function import PlainFunction


class Use(enum.Enum):
    """What becomes of a module where it is named."""

    ASKED = "compared with a constant, or counted"
    RUN = "called, or run whole, or all that it holds is, one by one"
    SET = "another takes its place: nothing is done with it"
    EXPOSED = "anything else"


def use_of(function: PlainFunction, node: ast.Attribute, module: nn.Module) -> Use:
    """What is done with a module where a function names it."""
    around = function.parents.get(node)
    if not isinstance(node.ctx, ast.Load):
        return Use.EXPOSED if isinstance(around, ast.AugAssign) else Use.SET
    if _is_asked(function, node, around):
        return Use.ASKED
    if has_no_forward(module) and _runs_each(function, node):
        return Use.RUN
    if isinstance(module, nn.ModuleDict) and isinstance(around, ast.Attribute):
        method = getattr(nn.ModuleDict, around.attr, None)
        inherited = method is not None and getattr(type(module), around.attr) is method
        return Use.RUN if inherited and goes_through(function, around) else Use.EXPOSED
    return Use.RUN if runs(function, node) else Use.EXPOSED


def _is_asked(function: PlainFunction, node: ast.AST, around: ast.AST | None) -> bool:
    """``a is None``, ``if a``, ``not a``, ``len(a)``."""
    if isinstance(around, ast.Compare):
        sides = [around.left, *around.comparators]
        alone = all(side is node or isinstance(side, ast.Constant) for side in sides)
        return alone and all(isinstance(op, (ast.Is, ast.IsNot)) for op in around.ops)
    if isinstance(around, (ast.If, ast.IfExp)):
        return around.test is node
    if isinstance(around, ast.UnaryOp):
        return isinstance(around.op, ast.Not)
    return _is_call_of(function, around, "len")


def _is_call_of(function: PlainFunction, node: ast.AST | None, *names: str) -> bool:
    if not isinstance(node, ast.Call) or not function.is_builtin(node.func):
        return False
    return getattr(node.func, "id", "") in names


def _runs_each(function: PlainFunction, node: ast.AST) -> bool:
    """``for layer in layers: x = layer(x)``, also by ``enumerate`` or ``zip``; ``layers[i](x)``."""
    around = function.parents.get(node)
    if isinstance(around, ast.Subscript) and around.value is node:
        return runs(function, around)
    target: ast.AST | None = None
    loop: ast.AST | None = around
    if isinstance(loop, (ast.For, ast.comprehension)) and loop.iter is node:
        target = loop.target
    elif _is_call_of(function, around, "enumerate", "zip", "reversed"):
        assert isinstance(around, ast.Call)
        loop = function.parents.get(around)
        if not isinstance(loop, (ast.For, ast.comprehension)) or loop.iter is not around:
            return False
        if any(isinstance(each, ast.Starred) for each in around.args):
            return False
        if getattr(around.func, "id", "") == "reversed":
            target = loop.target
        else:
            place = around.args.index(node)  # type: ignore[arg-type]
            place += getattr(around.func, "id", "") == "enumerate"
            parts = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
            starred = any(isinstance(part, ast.Starred) for part in parts)
            target = parts[place] if place < len(parts) and not starred else None
    return isinstance(target, ast.Name) and is_only_run(function, target.id)
