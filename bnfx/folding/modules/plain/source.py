"""The source of a function, if it still is that of its code: files change after an import."""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, TypeAlias

_FUTURE = 0  # flags of what ``exec`` may have taken over from the file that it stands in
for _feature in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _feature).compiler_flag

_STARRED = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS

Function: TypeAlias = "ast.FunctionDef | ast.Lambda"


@dataclass(frozen=True)
class _File:
    """The functions of a file, by their first lines."""

    trees: dict[int, list[Function]]
    codes: dict[int, list[CodeType]]


class Sources:
    """Files, read and compiled once."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], _File] = {}

    def tree(self, function: FunctionType) -> ast.FunctionDef | str:
        """What a function is parsed to; a string says why it is not."""
        if hasattr(function, "__wrapped__"):
            return "it is decorated"
        trees = self.trees(function.__code__, function.__globals__)
        if isinstance(trees, str):
            return trees
        if not isinstance(trees[0], ast.FunctionDef):
            return "it is no function of a class or a file"
        return trees[0]

    def trees(
        self, code: CodeType, space: Mapping[str, Any], bound: bool = False
    ) -> list[Function] | str:
        """What it is parsed to, one of them; only lambdas may stand in one line.

        Args:
            code: what was compiled.
            space: the names of its file.
            bound: ``*args`` may be an argument as others are, as ``torch.fx`` makes it.
        """
        try:
            file = self._file(code, space)
        except (SyntaxError, ValueError):
            return "its source cannot be read"
        if not file.codes:
            return "its source cannot be read"
        line, code = code.co_firstlineno, code.replace()  # new, without what Python made quicker
        written = [each for each in file.codes.get(line, ()) if _as(each, code, bound) == code]
        if not written:
            return "its source is not, or no more, that of its code"
        named = {each.co_name for each in written}
        trees = [t for t in file.trees.get(line, ()) if _name(t) in named and _takes(t, code)]
        return trees or "it is no function of a class or a file"

    def _file(self, code: CodeType, space: Mapping[str, Any]) -> _File:
        key = code.co_filename, code.co_flags & _FUTURE
        if key not in self._files:
            linecache.checkcache(key[0])
            text = "".join(linecache.getlines(key[0], dict(space)))
            tree = ast.parse(text)
            whole = compile(text, key[0], "exec", flags=key[1], dont_inherit=True)
            trees: dict[int, list[Function]] = defaultdict(list)
            codes: dict[int, list[CodeType]] = defaultdict(list)
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                    trees[_first_line(node)].append(node)
            for each in _inside(whole):
                codes[each.co_firstlineno].append(each)
            self._files[key] = _File(trees, codes)
        return self._files[key]


def _as(written: CodeType, code: CodeType, bound: bool) -> CodeType:
    """It, under the name of another: from torch 2.15 on, decorators such as ``torch.no_grad()``
    rename what they decorate after the context manager.
    """
    names: dict[str, Any] = {"co_name": code.co_name}
    if hasattr(code, "co_qualname"):  # from Python 3.11 on
        names["co_qualname"] = code.co_qualname
    bound = bound and written.co_varnames == code.co_varnames
    if bound and (written.co_flags & _STARRED or written.co_kwonlyargcount):
        names |= {"co_flags": code.co_flags, "co_argcount": code.co_argcount}
        names |= {"co_kwonlyargcount": code.co_kwonlyargcount}
    return written.replace(**names)


def _takes(tree: Function, code: CodeType) -> bool:
    """Whether it names its arguments as a code does."""
    given = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    given += [each for each in (tree.args.vararg, tree.args.kwarg) if each is not None]
    stars = [f for f in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS) if code.co_flags & f]
    number = code.co_argcount + code.co_kwonlyargcount + len(stars)
    return tuple(each.arg for each in given) == code.co_varnames[:number]


def _name(tree: Function) -> str:
    return getattr(tree, "name", "<lambda>")


def _first_line(function: Function) -> int:
    decorators = getattr(function, "decorator_list", [])
    return decorators[0].lineno if decorators else function.lineno


def _inside(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inside(constant)
