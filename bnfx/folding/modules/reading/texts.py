"""Text that code makes of modules, which says of what classes they and their layers are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnfx.folding.capturing.asking.shown_text import called_name, formatted
from bnfx.folding.modules.reading.uses import Uses

_MAKING = ("repr", "str", "format", "ascii")
_METHODS = ("__repr__", "__str__", "__format__")
_NUMBERED = ("enumerate", "items", "named_children", "named_modules")


def made_text(node: ast.AST) -> list[ast.AST]:
    """What an expression makes text of."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _MAKING:
            return [*node.args]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            return [node.func.value]
    return formatted(node) or []


class Texts:
    """Which expressions may be modules.

    Args:
        code: what stands around them.
        functions: all that were read.
        names: those of the modules in the model.
    """

    def __init__(self, code: Uses, functions: list[ast.AST], names: set[str]) -> None:
        self._code = code
        self._names = names
        nodes = [node for function in functions for node in ast.walk(function)]
        self._calls: dict[str, list[ast.Call]] = {}
        for node in nodes:
            if isinstance(node, ast.Call):
                self._calls.setdefault(called_name(node), []).append(node)

    def is_module(self, node: ast.AST, owner: str) -> bool:
        """Whether an expression may be a module that has others below it."""
        if isinstance(node, (ast.Subscript, ast.Starred)):
            return self.is_module(node.value, owner)
        if isinstance(node, ast.Attribute):
            return node.attr in self._names
        if not isinstance(node, ast.Name):
            return self._gives_module(node)
        if node.id == owner:
            return True
        scope = self._code.scope(node)
        return scope is not None and any(map(self._gives_module, self._sources(scope, node.id)))

    def _gives_module(self, node: ast.AST) -> bool:
        return any(
            isinstance(each, ast.Attribute)
            and (each.attr in self._names or each.attr in ("children", "modules"))
            and not self._is_run(each)
            for each in ast.walk(node)
        ) or (isinstance(node, ast.Call) and called_name(node) == "super")

    def _is_run(self, node: ast.Attribute) -> bool:
        """Whether a module is only called, counted, or asked for something else."""
        above = self._code.parents.get(node)
        if isinstance(above, ast.Call) and self._code.python_name(above) == "len":
            return True
        called = isinstance(above, ast.Call) and above.func is node and node.attr in self._names
        return called or (isinstance(above, ast.Attribute) and above.attr not in _NUMBERED)

    def _sources(self, scope: ast.AST, name: str) -> Iterator[ast.AST]:
        """What a name is bound to, or given."""
        for node in ast.walk(scope):
            if isinstance(node, (ast.For, ast.comprehension)):
                target: ast.AST = node.target
                numbered = isinstance(node.iter, ast.Call) and called_name(node.iter) in _NUMBERED
                if numbered and isinstance(target, ast.Tuple):
                    target = target.elts[-1]
                if _has(target, name):
                    yield node.iter
            elif isinstance(node, ast.Assign):
                if any(_has(target, name) for target in node.targets):
                    yield node.value
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
                if _has(node.target, name):
                    yield node.value
            elif isinstance(node, ast.arg) and node.arg == name:
                for call in self._calls.get(getattr(scope, "name", ""), ()):
                    yield from (*call.args, *(keyword.value for keyword in call.keywords))


def _has(target: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(target))
