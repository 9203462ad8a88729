"""Straight-line code: whose result it is that a call is given, where nobody else gets it."""

from __future__ import annotations

import ast

from bnfx.folding.modules.reading.mentions import Mentions
from bnfx.folding.modules.reading.owners import Mention

_BRANCHING: tuple[type[ast.AST], ...] = (
    ast.BoolOp,
    ast.IfExp,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
)
_BRANCHING += (ast.GeneratorExp, ast.Yield, ast.YieldFrom, ast.Await, ast.NamedExpr)
_PLAIN = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Assert)


def argument_of(mentions: Mentions, mention: Mention) -> ast.AST | None:
    """The expression whose call's result is the one argument of this one's call, and nobody
    else's.
    """
    call = mentions.parents.get(mention.node)
    if not isinstance(call, ast.Call) or call.func is not mention.node:
        return None
    if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
        return None
    argument = call.args[0]
    if isinstance(argument, ast.Call):
        return _callee(argument, mention)
    if not isinstance(argument, ast.Name):
        return None
    statement: ast.AST = call
    while not isinstance(statement, ast.stmt):
        if isinstance(statement, _BRANCHING) or statement not in mentions.parents:
            return None
        statement = mentions.parents[statement]
    if _is_tried(mentions, statement):
        return None
    block = _block(mentions.parents[statement], statement)
    function = mentions.scope(statement)
    if block is None or function is None or not isinstance(statement, (*_PLAIN, ast.Return)):
        return None
    name = argument.id
    loads = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
    here = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == name]
    stored = _binds(statement, name)
    if sum(isinstance(n.ctx, ast.Load) for n in here) != 1:
        return None
    if any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(function)):
        return None
    if any(mentions.scope(n) is not function for n in loads):
        return None
    read_once = sum(isinstance(n.ctx, ast.Load) for n in loads) == 1
    if not (stored or read_once or isinstance(statement, ast.Return)):
        return None
    for earlier in reversed(block[: block.index(statement)]):
        if _is_binding(earlier, name):
            value = getattr(earlier, "value", None)
            return _callee(value, mention) if isinstance(value, ast.Call) else None
        touched = any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(earlier))
        leaves = any(
            isinstance(n, (ast.Yield, ast.YieldFrom, ast.Await)) for n in ast.walk(earlier)
        )
        if touched or leaves or not isinstance(earlier, _PLAIN):
            return None
    return None


def _is_tried(mentions: Mentions, statement: ast.AST) -> bool:
    """Whether what was bound before an exception may be seen behind it."""
    above = mentions.parents.get(statement)
    while above is not None and not mentions.goes_on(above):
        above = mentions.parents.get(above)
    return above is not None


def _callee(call: ast.Call, mention: Mention) -> ast.AST | None:
    """What is called, with one argument, if it is an attribute of the same object."""
    if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
        return None
    if not isinstance(call.func, ast.Attribute) or not isinstance(mention.base, ast.Name):
        return None
    same = ast.dump(call.func.value) == ast.dump(mention.base)
    return call.func if same and mention.base.id == mention.function.owner else None


def _block(parent: ast.AST, statement: ast.AST) -> list[ast.AST] | None:
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    return next((b for b in blocks if isinstance(b, list) and statement in b), None)


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
