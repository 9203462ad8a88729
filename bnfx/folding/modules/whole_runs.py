"""Library functions of which it is known what they do with a module that they are given."""

from __future__ import annotations

from types import FunctionType
from typing import Any

# Functions that are known to run their first argument, and all of it in order.
_IN_ORDER = frozenset(
    [
        ("torch._functorch.apis", "vmap"),
        ("torch.utils.checkpoint", "checkpoint"),
        ("torch.utils.checkpoint", "checkpoint_sequential"),
        ("timm.models._manipulate", "checkpoint_seq"),
    ]
)


def runs_in_order(function: Any) -> bool:
    """Whether a function runs a module, or a sequence of them, as a whole."""
    place = (getattr(function, "__module__", ""), getattr(function, "__name__", ""))
    return isinstance(function, FunctionType) and place in _IN_ORDER
