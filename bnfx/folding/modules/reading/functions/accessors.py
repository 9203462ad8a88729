"""Objects that get at the parts of a module by names that the code does not show."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from operator import attrgetter, itemgetter, methodcaller
from types import MethodType
from typing import Any

import torch
from torch import nn

from bnfx.folding.modules.reading.computed_names import REBINDING

_OF_MODULES = frozenset(
    [
        *("modules", "named_modules", "children", "named_children", "get_submodule"),
        *("get_parameter", "get_buffer", "parameters", "named_parameters", "buffers"),
        *("named_buffers", "state_dict", "apply", "__getattr__", "__getattribute__"),
        *REBINDING,
    ]
)
_KINDS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, object)
_BUILTIN = ("getattr", "setattr", "delattr", "vars", "eval", "exec", "locals", "globals")
_ACCESSORS = [inspect.getattr_static(kind, name, None) for kind in _KINDS for name in _OF_MODULES]
_ACCESSORS += [getattr(builtins, name) for name in _BUILTIN]
_ACCESSORS += [inspect.getmembers, inspect.getattr_static, sys.modules]
# These run a module with other weights, by their names.
_ACCESSORS += [torch.func.functional_call, nn.utils.stateless.functional_call]
_BY_ID = {id(each) for each in _ACCESSORS if each is not None}
# These lead to code, or to objects, that no name leads to.
_WAYS_OUT = frozenset(
    [
        *("import_module", "__import__", "__subclasses__", "__globals__", "f_globals"),
        *("__func__", "__wrapped__"),
    ]
)


def is_accessor(value: Any) -> bool:
    """Whether an object gets at parts of modules, where it is known by another name or held."""
    function = value.__func__ if isinstance(value, MethodType) else value
    return id(function) in _BY_ID or isinstance(value, (attrgetter, itemgetter, methodcaller))


def hides(node: ast.AST, value: Any) -> bool:
    """Whether an expression is an accessor that its spelling does not show.

    ``self.children()`` and ``getattr(layer, name)`` are read where they stand.
    """
    if isinstance(node, ast.Name):
        name = node.id
        shown = name in _BUILTIN and getattr(builtins, name) is value
    else:
        name = getattr(node, "attr", "")
        if name == "__class__" and isinstance(node, ast.Attribute):
            return not isinstance(node.ctx, ast.Load)  # it takes on another's methods
        shown = name in _OF_MODULES and getattr(value, "__name__", "") == name
    return name in _WAYS_OUT or (is_accessor(value) and not shown)
