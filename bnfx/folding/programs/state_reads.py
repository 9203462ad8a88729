"""What a captured program does with a parameter or a buffer, and what comes to nothing."""

from __future__ import annotations

import torch
from torch import fx

_ASSERTION = torch.ops.aten._assert_tensor_metadata.default
_CAST = torch.ops.aten.to.dtype


def is_idle(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node checks what is known of a module's own tensor, or casts it to what it is.

    ``x.to(x.dtype)`` is ``x`` itself, so such a cast may be replaced by what it is given.
    """
    if node.op != "call_function" or node.target not in (_ASSERTION, _CAST):
        return False
    state = node.args[0]
    if not isinstance(state, fx.Node) or state.op != "get_attr":
        return False
    tensor = _read(module, str(state.target))
    if not isinstance(tensor, torch.Tensor):
        return False
    if node.target is _ASSERTION:
        return True
    return len(node.args) == 2 and not node.kwargs and node.args[1] is tensor.dtype


def _read(module: fx.GraphModule, path: str) -> object:
    value: object = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value
