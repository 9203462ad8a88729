"""The modules of a model by their paths, whatever methods its classes have."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def below(path: str, name: str) -> str:
    """The path of what a module at ``path`` has under a name; the model's own is ``""``."""
    return f"{path}.{name}" if path else name


def modules_of(model: nn.Module, shared: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """As ``named_modules`` does it.

    Args:
        shared: whether one that stands in several places comes several times.
    """
    return _walk(model, "", None if shared else set())


def _walk(
    module: nn.Module, path: str, seen: set[nn.Module] | None
) -> Iterator[tuple[str, nn.Module]]:
    if seen is not None:
        if module in seen:
            return
        seen.add(module)
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, below(path, name), seen)
