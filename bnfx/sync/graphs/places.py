"""Where a layer stands in its model, from which its number is."""

from __future__ import annotations

import weakref
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.sync.graphs.compiled_models import holder_of
from bnfx.sync.identities.identity import identity_of_path

# The model that each layer was last found in, and its paths there.
_places: WeakKeyDictionary[nn.Module, tuple[weakref.ref[nn.Module], list[str]]] = (
    WeakKeyDictionary()
)


def identity_within(root: nn.Module | None, module: nn.Module) -> int:
    """The number of a layer of ``root``; 0 where it has none, or several places."""
    path = None if root is None else _path(root, module)
    return identity_of_path(path)


def identity_of(module: nn.Module) -> int:
    """The number of a layer of whatever model was compiled; 0 if it is part of none."""
    root = _places[module][0]() if module in _places else None
    if root is not None and (path := _path(root, module)) is not None:
        return identity_of_path(path)
    return identity_within(holder_of(module), module)


def _path(root: nn.Module, module: nn.Module) -> str | None:
    """Its path, empty where that is not the only one; ``None`` if it is no part of ``root``."""
    known, paths = _places.get(module, (None, []))
    if known is None or known() is not root or any(_at(root, p) is not module for p in paths):
        found = list(root.named_modules(remove_duplicate=False))
        paths = [path for path, each in found if each is module]
        if not paths:
            return None
        _places[module] = weakref.ref(root), paths
        for other, each in found:  # so that the message can name a peer's layer
            if isinstance(each, _BatchNorm):
                identity_of_path(other)
    return paths[0] if len(paths) == 1 else ""


def _at(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None
