"""Every way to break one guard of a file: a condition dropped or flipped, a refusal unsaid."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Mutant:
    """A source with one guard broken.

    Args:
        line: where it stands.
        what: what was done to it, in words.
        source: the whole file, as Python writes the tree.
    """

    line: int
    what: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Each mutant of ``source``, in the order of its lines."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    found: dict[str, Mutant] = {}
    for place, node in list(_places(tree)):
        for what, new in _options(node):
            place(ast.fix_missing_locations(new))
            text = ast.unparse(tree)
            line = getattr(node, "lineno", getattr(node, "target", tree.body[0]).lineno)
            found.setdefault(text, Mutant(line, what, text))
        place(node)
    found.pop(original, None)
    yield from sorted(found.values(), key=lambda mutant: mutant.line)


def _places(tree: ast.AST) -> Iterator[tuple[Callable[[ast.AST], None], ast.AST]]:
    """Each node below ``tree``, and what puts another in its place."""
    left_out = {  # neither whether a class is frozen nor what is asserted is a guard
        node
        for owner in ast.walk(tree)
        for top in (*getattr(owner, "decorator_list", ()), *_asserted(owner))
        for node in ast.walk(top)
    }
    for parent in ast.walk(tree):
        if parent in left_out:
            continue
        for name, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield partial(setattr, parent, name), value
            elif isinstance(value, list):
                for at, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        yield partial(value.__setitem__, at), item


def _asserted(node: ast.AST) -> tuple[ast.AST, ...]:
    """An assertion speaks to readers, and so does ``zip(..., strict=True)``."""
    strict = isinstance(node, ast.keyword) and node.arg == "strict"
    return (node,) if strict or isinstance(node, ast.Assert) else ()


def _options(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            return
        case ast.If(test=test, body=body, orelse=orelse):
            text = _short(test)
            yield f"never: if {text}", ast.If(ast.Constant(False), body, orelse)
            yield f"always: if {text}", ast.If(ast.Constant(True), body, orelse)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"never: {_short(test)}", orelse
            yield f"always: {_short(test)}", body
        case ast.BoolOp(op=op, values=values):
            for at, value in enumerate(values):
                rest = [*values[:at], *values[at + 1 :]]
                new = rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
                yield f"without: {_short(value)}", new
        case ast.Compare(left=left, ops=[op], comparators=comparators) if type(op) in FLIPPED:
            flipped = FLIPPED[type(op)]()
            yield f"flipped: {_short(node)}", ast.Compare(left, [flipped], comparators)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"without not: {_short(operand)}", operand
        case ast.Expr(value=ast.Yield() | ast.YieldFrom() as value):
            # The function stays a generator.
            yield f"unsaid: {_short(value)}", ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load())))
        case ast.Raise() if node.exc is not None:
            yield f"not raised: {_short(node)}", ast.Pass()
        case ast.Continue() | ast.Break():
            yield f"without {type(node).__name__.lower()}", ast.Pass()
        case ast.Constant(value=bool(value)):
            yield f"{not value} for {value}", ast.Constant(not value)
        case ast.Call(func=ast.Name("all" | "any" as name), args=arguments):
            other = "any" if name == "all" else "all"
            yield f"{other} for {name}", ast.Call(ast.Name(other, ast.Load()), arguments, [])
        case ast.comprehension(target=target, iter=over, ifs=[_, *_] as ifs):
            text = " if ".join(map(_short, ifs))
            yield f"without: if {text}", ast.comprehension(target, over, [], 0)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + "..."
