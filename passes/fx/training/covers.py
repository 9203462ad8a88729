"""Functions of Python's that take the place of others, and only look out before they call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

_COVERS: set[CodeType] = set()


def covering(original: FunctionType, cover: Callable[..., Any]) -> Callable[..., Any]:
    """``cover``, which calls ``original``, with the globals and the file name of that one.

    TorchScript compiles the source of that one, and Dynamo starts on frames, or does not, by the
    file they are from.
    """
    source = original.__code__
    assert isinstance(cover, FunctionType)
    code = cover.__code__.replace(
        co_filename=source.co_filename, co_firstlineno=source.co_firstlineno
    )
    _COVERS.add(code)
    made = FunctionType(code, original.__globals__, original.__name__, None, cover.__closure__)
    return functools.wraps(original)(made)


def is_cover(code: CodeType) -> bool:
    """Whether it was made by :func:`covering`."""
    return code in _COVERS
