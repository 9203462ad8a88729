"""The modules of a model by their paths, whatever methods its classes have."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def modules_of(
    model: nn.Module, shared: bool = False, prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """As ``named_modules`` does it.

    Args:
        shared: whether one that stands in several places comes several times.
    """
    seen: set[nn.Module] = set()
    yield from _walk(model, prefix, None if shared else seen)


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
            yield from _walk(child, f"{path}.{name}".lstrip("."), seen)
