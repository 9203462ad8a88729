"""Which attributes code that runs with symbols may read, by their names."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.traced.bindings import WRITING, Element
from bnfx.folding.capturing.traced.traced_names import TracedNames
from bnfx.folding.modules.plain.data import INTERNAL, is_data
from bnfx.folding.modules.plain.library import LAYOUT, TELLING

# What a module has from torch that gives modules. Other methods change it, or give what is no
# symbol of the trace.
_GIVING = frozenset(["children", "named_children", "modules", "named_modules", "get_submodule"])
_GIVING |= frozenset(["training", "forward", "_modules"])
_OF_MODULES = frozenset([*dir(nn.Module), *INTERNAL]) - _GIVING
# What a symbol has by itself, and notes nothing of.
_OF_SYMBOLS = frozenset(name for name in dir(fx.proxy.Attribute) if not name.startswith("__"))
_OF_SYMBOLS |= frozenset(["node", "tracer", "root", "attr"])
_TELLING = TELLING | LAYOUT | _OF_SYMBOLS
_REFUSED = _OF_MODULES | WRITING | _TELLING


def is_harmless(held: Any, name: str) -> bool:
    """Whether an attribute is no way to change or look at what it is of.

    Args:
        held: what it is of, if that is known.
        name: what it is called.
    """
    if name.startswith("__"):
        return False
    if isinstance(held, ModuleType):
        return True
    if isinstance(held, nn.Module):
        own = vars(held).get(name, inspect.getattr_static(type(held), name, None))
        torchs = name in INTERNAL or own is inspect.getattr_static(nn.Module, name, None)
        return name not in _OF_MODULES or not torchs
    private = name.startswith("_") and hasattr(torch.Tensor, name)
    if private or name == "is_inference" or name in _TELLING:
        return False
    return name not in _OF_MODULES or (not isinstance(held, type) and hasattr(torch.Tensor, name))


def is_harmless_getattr(names: TracedNames, node: ast.Call) -> bool:
    """Whether ``getattr`` reads such an attribute, as far as the name is known."""
    if len(node.args) < 2:
        return False
    held, name = names.value_of(node.args[0]), node.args[1]
    if _begins_as_none(_beginning(name)) or _has_number(names, name):
        return True
    possible = _possible(names, name)
    if not isinstance(name, ast.Constant) and WRITING.intersection(possible):
        return False
    return "_modules" not in possible and all(is_harmless(held, each) for each in possible)


def loaded(names: TracedNames) -> set[str]:
    """Names of attributes that code may read, or how they begin, with ``"*"`` behind that."""
    found = {n.attr for n in names.bindings.nodes if isinstance(n, ast.Attribute)}
    for node in names.bindings.nodes:
        if isinstance(node, ast.Call) and names.bindings.is_builtin(node, "getattr"):
            beginning = _beginning(node.args[1]) + "*"
            found |= {beginning if n == "__" else n for n in _possible(names, node.args[1])}
    return found


def _possible(names: TracedNames, node: ast.AST) -> list[str]:
    """The names that an expression may give; ``"__"`` where that is not known."""
    return [text for value in names.bindings.values_of(node) for text in _texts(names, value)]


def _texts(names: TracedNames, node: ast.AST | None) -> list[str]:
    if isinstance(node, ast.IfExp):
        return [*_texts(names, node.body), *_texts(names, node.orelse)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, Element):
        held = names.value_of(node.of)
        if type(held) in (list, tuple) and is_data(held) and names.is_fixed(held):
            return [str(each) for each in held]
    return ["__"]


def _has_number(names: TracedNames, node: ast.AST) -> bool:
    """Whether a number is part of a text; it is of no attribute that code may not read."""
    values = node.values if isinstance(node, ast.JoinedStr) else []
    shown = [each.value for each in values if isinstance(each, ast.FormattedValue)]
    return any(all(_is_number(names, v) for v in names.bindings.values_of(s)) for s in shown)


def _is_number(names: TracedNames, node: ast.AST | None) -> bool:
    """A count: of ``range``, of ``enumerate``, or written."""
    if isinstance(node, ast.BinOp):
        return _is_number(names, node.left) and _is_number(names, node.right)
    if isinstance(node, Element):
        return names.bindings.is_builtin(node.of, "range")
    return isinstance(node, ast.Constant) and type(node.value) is int


def _beginning(node: ast.AST) -> str:
    """The text that a text begins with, if that is known."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return _beginning(node.values[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _beginning(node.left)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _beginning(node.left).partition("%")[0]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _beginning(node.func.value).partition("{")[0] if node.func.attr == "format" else ""
    return ""


def _begins_as_none(beginning: str) -> bool:
    """Whether no attribute that code may not read begins so."""
    return bool(beginning) and not any(name.startswith(beginning) for name in _REFUSED)
