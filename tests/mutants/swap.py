"""Puts the code of another source into functions that are there already."""

from __future__ import annotations

import gc
import inspect
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

# A name, and the how-many-th code of that name in the file it is.
Key = tuple[str, int]
Codes = dict[Key, CodeType]


def codes_of(module: CodeType) -> Codes:
    """All codes within that of a file, by name."""
    seen: dict[str, int] = defaultdict(int)
    found: Codes = {}

    def visit(code: CodeType, name: str, within: str) -> None:
        found[name, seen[name]] = code
        seen[name] += 1
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                # Python 3.10, which Relay needs, has no co_qualname.
                own = within + inner.co_name
                local = inner.co_flags & inspect.CO_OPTIMIZED
                visit(inner, own, f"{own}.<locals>." if local else f"{own}.")

    visit(module, module.co_name, "")
    return found


@dataclass(frozen=True)
class Loaded:
    """The functions of a file that are there.

    Args:
        codes: of the file as it is.
        functions: those that run each code.
    """

    codes: Codes
    functions: dict[Key, list[FunctionType]]

    def swap(self, other: Codes) -> None:
        """Let all functions run ``other``."""
        for key, functions in self.functions.items():
            for function in functions:
                function.__code__ = other[key]

    def takes(self, plain: Codes, other: Codes) -> bool:
        """Whether what differs between ``plain`` and ``other``, both from the same printer, is in
        functions, so that `swap` changes all that an import of ``other`` would.
        """
        if plain.keys() != other.keys() or plain.keys() != self.codes.keys():
            return False
        if any(other[key].co_freevars != plain[key].co_freevars for key in self.functions):
            return False  # a function cannot be given other cells
        return all(key in self.functions for key in _outermost(plain, other))


def _outermost(plain: Codes, other: Codes) -> Iterator[Key]:
    """The functions that differ and are not within others, and bodies of files and classes that
    differ by themselves.
    """
    for key, code in plain.items():
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a file or of a class
            if _surface(code) != _surface(other[key]):
                yield key
        elif code != other[key] and "<locals>" not in key[0]:
            yield key


def _surface(code: CodeType) -> object:
    """What a body does by itself, without the functions in it."""
    consts = [
        each.co_name if isinstance(each, CodeType) else (type(each), each)
        for each in code.co_consts
    ]
    return code.co_code, code.co_names, consts


def loaded(files: dict[str, str]) -> dict[str, Loaded]:
    """What is loaded of ``files``, given by path and source."""
    codes = {path: codes_of(compile(source, path, "exec")) for path, source in files.items()}
    places = {
        path: {(code.co_name, code.co_firstlineno): key for key, code in found.items()}
        for path, found in codes.items()
    }
    functions: dict[str, dict[Key, list[FunctionType]]] = {path: {} for path in files}
    real: dict[str, str] = {}
    for each in gc.get_objects():
        if type(each) is not FunctionType:
            continue
        code = each.__code__
        path = real.get(code.co_filename) or os.path.realpath(code.co_filename)
        real[code.co_filename] = path
        key = places.get(path, {}).get((code.co_name, code.co_firstlineno))
        if key is not None:
            functions[path].setdefault(key, []).append(each)
    return {path: Loaded(codes[path], functions[path]) for path in files}
