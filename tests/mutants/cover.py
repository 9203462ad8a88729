"""Which tests reach which statement: sources whose statements say that they are reached."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HIT = "__mutants_hit__"


@dataclass(frozen=True)
class Unit:
    """A statement in a function, or the body of a lambda: its first and its last line."""

    first: int
    last: int


@dataclass(frozen=True)
class Marked:
    """A source that says what it reaches, and its units, by number from ``start`` on."""

    tree: ast.Module
    units: dict[int, Unit]

    def around(self, line: int) -> set[int]:
        """The smallest units that hold ``line``; none where only an import reaches it."""
        sizes = {
            number: unit.last - unit.first
            for number, unit in self.units.items()
            if unit.first <= line <= unit.last
        }
        return {number for number, size in sizes.items() if size == min(sizes.values())}


def marked(source: str, start: int) -> Marked:
    """``source`` with a call before each statement of a function."""
    tree = ast.parse(source)
    units: dict[int, Unit] = {}

    def call(node: ast.stmt | ast.expr) -> ast.Call:
        number = start + len(units)
        units[number] = Unit(node.lineno, node.end_lineno or node.lineno)
        return ast.Call(ast.Name(HIT, ast.Load()), [ast.Constant(number)], [])

    for node, within in list(_walk(tree, False)):
        if isinstance(node, ast.Lambda):
            node.body = ast.BoolOp(ast.Or(), [call(node.body), node.body])
        if not within and not isinstance(node, ast.FunctionDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list) and not isinstance(node, ast.ClassDef):
                new = [part for each in statements for part in (ast.Expr(call(each)), each)]
                first = statements[:1]
                if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, False):
                    new = [*first, *new[2:]]
                setattr(node, name, new)
    return Marked(ast.fix_missing_locations(tree), units)


def _walk(node: ast.AST, within: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, and whether they are in a function."""
    yield node, within
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, within or isinstance(node, ast.FunctionDef))


def listen(hit: Callable[[int], object]) -> None:
    """Let ``hit`` be called with the number of each unit that is reached; it must return None."""
    setattr(builtins, HIT, hit)
