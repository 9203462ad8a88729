"""Parts of Python's syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what stands in it, but for functions in it, which run by themselves."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        for each in _outside(node):
            yield from own(each)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from own(child)


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """What runs where a function or class is made: defaults, decorators, bases."""
    arguments = getattr(node, "args", None)
    if arguments is not None:
        yield from (*arguments.defaults, *(each for each in arguments.kw_defaults if each))
    for name in ("decorator_list", "bases"):
        yield from getattr(node, name, ())
    yield from (keyword.value for keyword in getattr(node, "keywords", ()))


def flat(target: ast.AST) -> Iterator[ast.AST]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for each in target.elts:
            yield from flat(each)
    else:
        yield target.value if isinstance(target, ast.Starred) else target


def root(node: ast.AST) -> ast.AST:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node
