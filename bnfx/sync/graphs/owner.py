"""The user's module behind a node of a captured graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

_ROOT = re.compile(r"^([LG])\['([^']+)'\]")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[['\"]?([^'\"\]]+)['\"]?\]")


def owner_of(node: fx.Node) -> nn.Module | None:
    """The module whose forward the node comes from; ``None`` where it cannot be told.

    Found by the path that Dynamo notes, from the variables of the frame that it is compiling.
    """
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    scopes = _scopes()
    if not stack or scopes is None or not isinstance(stack[-1], tuple):
        return None
    path, kind = stack[-1]
    found = _walk(str(path), scopes)
    expected = isinstance(kind, type) and type(found) is kind
    return found if expected and isinstance(found, nn.Module) else None


def root_of(node: fx.Node) -> nn.Module | None:
    """The module that the code being compiled has in a variable, of which the owner is a part.

    The graph may serve other modules in that variable, too.
    """
    stack, scopes = list((node.meta.get("nn_module_stack") or {}).values()), _scopes()
    root = _ROOT.match(str(stack[-1][0])) if stack and isinstance(stack[-1], tuple) else None
    found = None if root is None or scopes is None else scopes[root[1]].get(root[2])
    return found if isinstance(found, nn.Module) else None


def _scopes() -> dict[str, Mapping[str, Any]] | None:
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        translator = InstructionTranslator.current_tx()
    except AttributeError:  # nothing is being compiled: the backend was called by hand
        return None
    output = translator.output
    return {"L": output.local_scope, "G": output.global_scope}


def _walk(path: str, scopes: Mapping[str, Mapping[str, Any]]) -> object:
    """What ``L['self'].layers.0.bn`` names, or ``None``."""
    root = _ROOT.match(path)
    if root is None:
        return None
    found: object = scopes[root[1]].get(root[2])
    for name, key in _STEP.findall(path[root.end() :]):
        if isinstance(found, nn.Module) and (name or key) in found._modules:
            found = found._modules[name or key]
        else:
            found = getattr(found, name or key, None)
    return found
