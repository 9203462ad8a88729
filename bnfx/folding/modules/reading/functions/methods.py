"""Which object a method is given, and by which name."""

from __future__ import annotations

import ast
import inspect
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from bnfx.folding.modules.reading.functions.class_attributes import unwrapped
from bnfx.folding.modules.reading.functions.library import is_torchs


def first_argument(code: CodeType) -> str:
    """The name of it; ``""`` if there is none."""
    return code.co_varnames[0] if code.co_argcount else ""


def home_of(method: MethodType) -> type:
    """The class that has a method; any, if it is bound under another name."""
    name = method.__func__.__name__
    for base in type(method.__self__).__mro__:
        if any(each is method.__func__ for each, _ in unwrapped(vars(base).get(name))):
            return base
    return nn.Module


def names_its_object(function: FunctionType, node: Any) -> bool:
    """Whether a method names the object that it is given, or only hands it on."""
    code = function.__code__
    if code.co_argcount or not code.co_flags & inspect.CO_VARARGS or is_torchs(function):
        return True
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
    calls = [call for call in calls if getattr(call.func, "id", "") in code.co_freevars]
    handed = {id(a.value) for call in calls for a in call.args if isinstance(a, ast.Starred)}
    uses = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == node.args.vararg.arg]
    return all(id(use) in handed for use in uses)
