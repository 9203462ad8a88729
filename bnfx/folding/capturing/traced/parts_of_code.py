"""Parts of Python's syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.Lambda)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what stands in it, but for annotations, and functions in it, which run by
    themselves.
    """
    yield node
    inside = _outside(node) if isinstance(node, FUNCTIONS) else ast.iter_child_nodes(node)
    for child in inside:
        noted = child is getattr(node, "annotation", None)
        if not noted or (isinstance(node, ast.AnnAssign) and not node.simple):
            yield from own(child)


def body_of(function: ast.FunctionDef | ast.Lambda) -> list[ast.AST]:
    """What runs where it is called."""
    return [*function.body] if isinstance(function, ast.FunctionDef) else [function.body]


def parameters(function: ast.FunctionDef | ast.Lambda) -> list[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [each.arg for each in named if each is not None]


def _outside(function: ast.AST) -> Iterator[ast.AST]:
    """What runs where a function is made: defaults, decorators."""
    given: ast.arguments = function.args  # type: ignore[attr-defined]
    yield from (*given.defaults, *(each for each in given.kw_defaults if each is not None))
    yield from getattr(function, "decorator_list", ())
    noted = [
        getattr(function, "returns", None),
        *(each.annotation for each in ast.walk(given) if isinstance(each, ast.arg)),
    ]
    yield from (each for each in noted if each is not None and _runs(each))


def _runs(annotation: ast.AST) -> bool:
    """Whether it does more than name something."""
    names: tuple[type[ast.AST], ...] = (
        ast.Name,
        ast.Attribute,
        ast.Subscript,
        ast.Constant,
        ast.Tuple,
        ast.List,
        ast.BinOp,
    )
    names += (ast.expr_context, ast.BitOr)
    return not all(isinstance(each, names) for each in ast.walk(annotation))


def flat(target: ast.AST) -> Iterator[ast.AST]:
    """The targets in a tuple or list of them."""
    if isinstance(target, (ast.Tuple, ast.List)):
        for each in target.elts:
            yield from flat(each)
    else:
        yield target.value if isinstance(target, ast.Starred) else target
