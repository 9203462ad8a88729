"""The source of a function, if it still is that of its code: files change after an import."""

from __future__ import annotations
import __future__

import ast
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

_FUTURE = 0  # flags of what ``exec`` may have taken over from the file that it stands in
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag


@dataclass(frozen=True)
class _File:
    """The functions of a file, by their names and first lines."""

    trees: dict[tuple[str, int], ast.FunctionDef]
    codes: dict[tuple[str, int], CodeType]


class Sources:
    """Files, read and compiled once."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], _File] = {}

    def tree(self, function: FunctionType) -> ast.FunctionDef | str:
        """What a function is parsed to; a string says why it is not."""
        if hasattr(function, "__wrapped__"):
            return "it is decorated"
        code = function.__code__
        place = code.co_name, code.co_firstlineno
        try:
            file = self._file(code, function)
        except (SyntaxError, ValueError):
            return "its source cannot be read"
        if not file.codes:
            return "its source cannot be read"
        if file.codes.get(place) != code:
            return "its source is not, or no more, that of its code"
        return file.trees.get(place, "it is no function of a class or a file")

    def _file(self, code: CodeType, function: FunctionType) -> _File:
        key = code.co_filename, code.co_flags & _FUTURE
        if key not in self._files:
            linecache.checkcache(key[0])
            text = "".join(linecache.getlines(key[0], function.__globals__))
            tree = ast.parse(text)
            whole = compile(text, key[0], "exec", flags=key[1], dont_inherit=True)
            functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
            self._files[key] = _File(
                {(each.name, _first_line(each)): each for each in functions},
                {(each.co_name, each.co_firstlineno): each for each in _inside(whole)},
            )
        return self._files[key]


def _first_line(function: ast.FunctionDef) -> int:
    decorators = function.decorator_list
    return decorators[0].lineno if decorators else function.lineno


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)
