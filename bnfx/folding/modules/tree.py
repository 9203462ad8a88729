"""The modules of a model by their paths, whatever methods its classes have."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def below(path: str, name: str) -> str:
    """The path of what a module at ``path`` has under a name; the model's own is ``""``."""
    return f"{path}.{name}" if path else f"{name}"


def is_name(name: object) -> bool:
    """Whether a path can be made of it, as ``add_module`` asks; tables of modules take anything."""
    return isinstance(name, str) and bool(name) and "." not in name


def is_scripted(module: nn.Module) -> bool:
    """Whether it is TorchScript, whatever its ``__class__`` says."""
    return issubclass(type(module), torch.jit.ScriptModule)


def modules_of(model: nn.Module, shared: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """As ``named_modules`` does it.

    Args:
        shared: whether one that stands in several places comes several times; inside of itself, it
            comes once more, without its parts.
    """
    return _walk(model, "", [] if shared else None, set())


def _walk(
    module: nn.Module, path: str, above: list[int] | None, seen: set[int]
) -> Iterator[tuple[str, nn.Module]]:
    if above is None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield path, module
    if above is not None:
        if id(module) in above:
            return
        above = [*above, id(module)]
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, below(path, name), above, seen)
