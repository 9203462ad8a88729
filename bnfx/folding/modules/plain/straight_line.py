"""Straight-line code: whose result it is that a call is given, where nobody else gets it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnfx.folding.modules.plain.plain_function import PlainFunction

_BRANCHING = (ast.BoolOp, ast.IfExp, ast.ListComp, ast.GeneratorExp)
_PLAIN = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Assert)
_RUNNING = (ast.Call, ast.AugAssign)  # they may write to what ``y`` was computed from


def argument_of(function: PlainFunction, node: ast.AST) -> ast.Attribute | None:
    """Where an attribute of ``self`` is called with one argument, the other attribute whose result
    that is, and nobody else's.
    """
    call = function.parents.get(node)
    if not isinstance(call, ast.Call) or not _has_one_argument(call):
        return None
    argument = call.args[0]
    if isinstance(argument, ast.Call):
        return _callee(argument, function)
    if not isinstance(argument, ast.Name):
        return None
    statement: ast.AST = call
    while not isinstance(statement, ast.stmt):
        if isinstance(statement, _BRANCHING):
            return None
        statement = function.parents[statement]
    block = _block(function.parents[statement], statement)
    if not isinstance(statement, (*_PLAIN, ast.Return)):
        return None
    if any(_runs_before(other, call) or _is_out_of_order(other) for other in ast.walk(statement)):
        return None
    name = argument.id
    if sum(n.id == name for n in _reads(statement)) != 1:
        return None
    read_once = sum(n.id == name for n in _reads(function.tree)) == 1
    if not (_binds(statement, name) or read_once or isinstance(statement, ast.Return)):
        return None
    for earlier in reversed(block[: block.index(statement)]):
        if _is_binding(earlier, name):
            value = getattr(earlier, "value", None)
            return _callee(value, function) if isinstance(value, ast.Call) else None
        touched = any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(earlier))
        runs = any(isinstance(n, _RUNNING) or _is_written(n) for n in ast.walk(earlier))
        if touched or runs or not isinstance(earlier, _PLAIN):
            return None
    return None


def _reads(tree: ast.AST) -> Iterator[ast.Name]:
    """Names that are read; those that are written to in place are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target


def _runs_before(other: ast.AST, call: ast.Call) -> bool:
    """Whether another call of the statement, as Python goes from left to right, comes first."""
    if not isinstance(other, ast.Call) or call in ast.walk(other):
        return False
    return (other.lineno, other.col_offset) < (call.lineno, call.col_offset)


def _is_out_of_order(node: ast.AST) -> bool:
    """``f(a=..., *b)``, where ``b`` comes first."""
    stars = any(isinstance(each, ast.Starred) for each in getattr(node, "args", ()))
    return stars and bool(getattr(node, "keywords", ()))


def _is_written(node: ast.AST) -> bool:
    """``x[0] = ...``, or ``self.count = ...``, which stays where a BatchNorm raises behind it."""
    stored = isinstance(node, (ast.Subscript, ast.Attribute))
    return stored and not isinstance(node.ctx, ast.Load)  # type: ignore[attr-defined]


def _has_one_argument(call: ast.Call) -> bool:
    if len(call.args) != 1 or call.keywords:
        return False
    return not isinstance(call.args[0], ast.Starred)


def _callee(call: ast.Call, function: PlainFunction) -> ast.Attribute | None:
    """What is called, with one argument, if it is an attribute of ``self``."""
    if not _has_one_argument(call):
        return None
    callee = call.func
    if not isinstance(callee, ast.Attribute) or not isinstance(callee.value, ast.Name):
        return None
    return callee if callee.value.id == function.owner else None


def _block(parent: ast.AST, statement: ast.AST) -> list[ast.AST]:
    blocks: Iterator[list[ast.AST]] = (getattr(parent, name, []) for name in ("body", "orelse"))
    return next(block for block in blocks if statement in block)


def _is_binding(statement: ast.AST, name: str) -> bool:
    """Whether a statement binds a name to its value, and does no more."""
    targets = _targets(statement)
    return len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == name


def _binds(statement: ast.AST, name: str) -> bool:
    """Whether a name is another's behind a statement, whatever its expressions do."""
    targets = _targets(statement)
    while any(isinstance(target, (ast.Tuple, ast.List)) for target in targets):
        targets = [each for target in targets for each in getattr(target, "elts", [target])]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _targets(statement: ast.AST) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []
