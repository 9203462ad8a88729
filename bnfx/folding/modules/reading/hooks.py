"""Hooks of a container: they are given it, and may run its layers by their places."""

from __future__ import annotations

import ast
from types import FunctionType
from typing import Any

from torch import nn

from bnfx.folding.capturing.asking.decisions import function_nodes


def hooks_of(module: nn.Module) -> list[Any]:
    """What runs when a module is called, besides its own forward."""
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def ignores_module(hook: Any) -> bool:
    """Whether a hook is a function that never names the module that it is given."""
    if not isinstance(hook, FunctionType) or not hook.__code__.co_argcount:
        return False
    nodes = function_nodes(hook.__code__)
    first = hook.__code__.co_varnames[0]
    used = (isinstance(n, ast.Name) and n.id == first for node in nodes for n in ast.walk(node))
    return bool(nodes) and not any(used)
