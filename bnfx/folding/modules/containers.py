"""Containers of modules: which run what they hold, and which leave that to others."""

from __future__ import annotations

import inspect

from torch import nn

_LISTS_FORWARD = nn.ModuleList.forward


def has_no_forward(module: nn.Module) -> bool:
    """Whether it is a list or a dict of modules, which others run."""
    return inspect.getattr_static(type(module), "forward", None) is _LISTS_FORWARD


def is_sequential(module: nn.Module) -> bool:
    """Whether it runs its modules in their order: its ``forward`` goes by its ``__iter__``."""
    if not isinstance(module, nn.Sequential) or "forward" in vars(module):
        return False
    return all(
        inspect.getattr_static(type(module), name) is inspect.getattr_static(nn.Sequential, name)
        for name in ("__call__", "forward", "__iter__")
    )
