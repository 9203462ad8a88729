"""The values at the ends of an exported program's JSON: each checked, and returned."""

from __future__ import annotations

import json
import keyword as python_keywords
import math
import re
from typing import Any

from torch import nn

from bnfx.archives.program_operators import checked_operator
from bnfx.archives.refused import RefusedError, shown
from bnfx.archives.symbolic_text import SYMBOL, checked_expression, checked_guard
from bnfx.archives.tree_text import checked_tree
from bnfx.passes.fx.lowering.marks import MARK_KEY, Mark
from bnfx.torch_private import CODE_NAMES

_WORD = re.compile(r"[A-Za-z_]\w{0,500}", re.ASCII)
# What torch's generated code uses by name; a value of such a name would take its place.
_TAKEN = {"self", "getattr", "slice", "math", "_operator", "__debug__", *CODE_NAMES}
_ATTRIBUTES = frozenset(dir(nn.Module()))
_PATH = re.compile(r"([\w-]{1,200}(\.[\w-]{1,200}){0,60})?", re.ASCII)
_COMPUTED = re.compile(r"[a-tv-y0-9_(-][a-zA-Z0-9_ ,+*/()-]{0,200}", re.ASCII)
_PAYLOAD = re.compile(r"(weight|tensor)_\d{1,9}")
_TEXT = re.compile(r"[\w .,:;+*/=<>()\[\]|!?@&%~^#$-]{0,1000}", re.ASCII)
_NOTES = ("stack_trace", "nn_module_stack", "torch_fn")
_MARKS = [json.dumps({MARK_KEY: each.value}) for each in Mark]  # of an earlier fold
_DTYPES = frozenset([*range(1, 14), *range(28, 36)])
_STRIDED = 7


def _want(good: object, value: Any, what: str) -> Any:
    if not good:
        raise RefusedError(f"{shown(value)} stands where {what} belongs")
    return value


def boolean(value: Any) -> Any:
    return _want(isinstance(value, bool), value, "true or false")


def false(value: Any) -> Any:
    """A weight that is pickled is code."""
    if value is not False:
        raise RefusedError("one of its weights or constants is pickled, and pickles are code")
    return value


def integer(value: Any) -> Any:
    good = type(value) is int and -(1 << 63) <= value < 1 << 63
    return _want(good, value, "a whole number of 64 bits")


def small(value: Any) -> Any:
    return _want(type(value) is int and 0 <= value < 1024, value, "a small number")


def number(value: Any) -> Any:
    if isinstance(value, str):
        return _want(value in ("Infinity", "-Infinity", "NaN"), value, "a number")
    good = type(value) in (int, float) and math.isfinite(value)
    return _want(good, value, "a number")


def identifier(value: Any) -> Any:
    """A name that torch writes into Python code."""
    good = isinstance(value, str) and _WORD.fullmatch(value) and value not in _TAKEN
    return _want(good and not python_keywords.iskeyword(value), value, "a name")


def name(value: Any) -> Any:
    """A name that is used; an unused output has an empty one."""
    return value if value == "" else identifier(value)


def keyword(value: Any) -> Any:
    """An argument's name; ``from`` is one."""
    good = isinstance(value, str) and (not value or _WORD.fullmatch(value))
    return _want(good, value, "an argument's name")


def path(value: Any) -> Any:
    """A parameter's or module's name; none of its parts is an attribute of every module."""
    good = isinstance(value, str) and _PATH.fullmatch(value)
    free = good and _ATTRIBUTES.isdisjoint(value.split("."))
    return _want(free, value, "a parameter's name")


def weight(value: Any) -> Any:
    """A parameter's name, which is not empty."""
    return _want(value != "", path(value), "a parameter's name")


def payload(value: Any) -> Any:
    good = isinstance(value, str) and _PAYLOAD.fullmatch(value)
    return _want(good, value, "an entry with a tensor's bytes")


def text(value: Any) -> Any:
    """Ends no string that it is written into."""
    return _want(isinstance(value, str) and _TEXT.fullmatch(value), value, "a plain word")


def message(value: Any) -> Any:
    """An operator's argument, which torch writes by ``repr``."""
    good = isinstance(value, str) and len(value) < 10_000 and value.isprintable()
    return _want(good, value, "a plain line")


def symbol(value: Any) -> Any:
    """The name of a size, or of one that is computed from others, which is only looked up."""
    good = isinstance(value, str) and (SYMBOL.fullmatch(value) or _COMPUTED.fullmatch(value))
    return _want(good, value, "the name of a size")


def operator(value: Any) -> Any:
    return checked_operator(_string(value))


def expression(value: Any) -> Any:
    return checked_expression(_string(value))


def guard(value: Any) -> Any:
    return checked_guard(_string(value))


def tree(value: Any) -> Any:
    return checked_tree(_string(value))


def verifier(value: Any) -> Any:
    return _want(value in ("", "ATEN", "TRAINING"), value, "a dialect of torch.export")


def dtype(value: Any) -> Any:
    return _want(type(value) is int and value in _DTYPES, value, "a dtype")


def layout(value: Any) -> Any:
    return _want(type(value) is int and value == _STRIDED, value, "the strided layout")


def memory_format(value: Any) -> Any:
    return _want(type(value) is int and 1 <= value <= 4, value, "a memory format")


def argument_kind(value: Any) -> Any:
    return _want(type(value) is int and 0 <= value <= 2, value, "a kind of argument")


def device(value: Any) -> Any:
    return _want(value in ("cpu", "cuda", "mps", "xpu", "meta"), value, "a device")


def nothing(value: Any) -> Any:
    """Objects of classes of one's own are pickled."""
    if value:
        raise RefusedError("it holds an object that is not a tensor, and such are pickled")
    return value


def dropped(value: Any) -> Any:
    """Notes for people and tools, which nothing here reads."""
    return {}


def metadata(value: Any) -> Any:
    """Of the notes on a node, where it comes from; written into comments of code that is run."""
    if not isinstance(value, dict):
        raise RefusedError(f"{shown(value)} stands where notes belong")
    notes = {key: _note(value[key]) for key in _NOTES if key in value}
    if value.get("custom") in _MARKS:
        notes["custom"] = value["custom"]
    return notes


def _note(value: Any) -> Any:
    lines = value.split("\n") if isinstance(value, str) else ["\0"]
    return _want(all(map(str.isprintable, lines)), value, "plain lines")


def _string(value: Any) -> str:
    return str(_want(isinstance(value, str), value, "a text"))
