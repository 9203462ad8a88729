"""What is torch's own code, or Python's, or NumPy's: it names no part of a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FunctionType

import torch

_STDLIB = str(Path(os.__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_GENERATED = frozenset(["__init__", "__repr__", "__eq__", "__hash__", "__setattr__"])
_GENERATED |= frozenset(["__lt__", "__le__", "__gt__", "__ge__"])
_GENERATED |= frozenset(
    ["__delattr__", "__new__", "__getnewargs__", "__getstate__", "__setstate__"]
)
_GENERATED |= frozenset(["_make", "_replace", "_asdict", "__replace__"])


def is_library(name: str | None) -> bool:
    """Whether a Python module is theirs, by its name."""
    top = (name or "").split(".")[0]
    if top in ("torch", "bnfx", "builtins", "numpy", "typing_extensions"):
        return True
    if name == "torchvision.ops.roi_align":  # it compiles itself, by ``globals()``
        return True
    if top not in sys.stdlib_module_names - {"__main__"}:
        return False
    # A user's own ``statistics.py`` is not.
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or _is_in_stdlib(file)


def is_library_function(function: FunctionType) -> bool:
    """Whether a function is theirs. ``functools.wraps`` takes over the name of a module, so it must
    be written there, too.
    """
    file = function.__code__.co_filename
    parts = {"numpy", "bnfx", "torchvision"}
    written = file.startswith("<") or not parts.isdisjoint(Path(file).parts)
    return is_library(function.__module__) and (written or is_torchs(function))


def is_torchs(function: FunctionType) -> bool:
    """Such as what ``@torch.no_grad()`` makes of a method, which hands on what it is given."""
    file = function.__code__.co_filename
    return file.startswith(_TORCH) or _is_in_stdlib(file)


def is_known(kind: type) -> bool:
    """Whether a class is theirs."""
    return is_library(kind.__module__) and kind.__module__ != "__main__"


def is_generated(function: FunctionType) -> bool:
    """Of a dataclass or a named tuple: it has no source, and names nothing."""
    return function.__code__.co_filename.startswith("<") and function.__name__ in _GENERATED


def _is_in_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and "site-packages" not in file
