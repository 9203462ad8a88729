"""The source of a function, if it still is that of its code: files change after an import."""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType

_FUTURE = 0  # flags of what ``exec`` may have taken over from the file that it stands in
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag


class Sources:
    """Files, compiled once."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, int], dict[tuple[str, int], CodeType]] = {}

    def tree(self, function: FunctionType) -> ast.FunctionDef | str:
        """What a function is parsed to; a string says why it is not."""
        if hasattr(function, "__wrapped__"):
            return "it is decorated"
        code = function.__code__
        try:
            lines, _ = inspect.findsource(code)
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(code))).body
            known = self._compiled(code, "".join(lines))
        except (OSError, SyntaxError, TypeError, ValueError):
            return "its source cannot be read"
        if not isinstance(tree, ast.FunctionDef) or tree.name != code.co_name:
            return "it is no function of a class or a file"  # a lambda stands in another's lines
        if known.get((code.co_name, code.co_firstlineno)) != code:
            return "its source is not, or no more, that of its code"
        return tree

    def _compiled(self, code: CodeType, text: str) -> dict[tuple[str, int], CodeType]:
        """The code of all functions of a file, by their names and lines."""
        key = code.co_filename, code.co_flags & _FUTURE
        if key not in self._codes:
            whole = compile(text, key[0], "exec", flags=key[1], dont_inherit=True)
            self._codes[key] = {(c.co_name, c.co_firstlineno): c for c in _inside(whole)}
        return self._codes[key]


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)
