"""Whether a model's code asks for the class of a tensor, or for an attribute that no tensor has.

Python tells torch nothing of ``isinstance(x, SomeSubclass)`` and ``hasattr(x, "mask")``, so the
model runs once on tensors of a class of our own, which notes that. ``type(x)`` no class can note:
code that names ``type`` is taken to ask.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.asking.modes import is_pythons, is_users, module_of, profiled
from bnfx.folding.given import WAY_OUT, ExampleInputs, copied
from bnfx.folding.verify import answer_to

_HELD = "_bnfx_held"


@dataclass
class Looks:
    """What a model's code asked.

    Args:
        classes: whether for the class of a tensor.
        attributes: by name, those that it asked for and tensors do not have.
    """

    classes: bool = False
    attributes: set[str] = field(default_factory=set)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note of a function that begins whether it names ``type``."""
        if event != "call" or self.classes or not is_users(frame):
            return
        if not is_pythons(module_of(frame)):  # which names it for reasons of its own
            space = ChainMap(frame.f_globals, vars(builtins))
            self.classes = any(space.get(name) is type for name in frame.f_code.co_names)


class _Here(threading.local):
    """This thread's; nobody's, where a model kept a tensor that notes."""

    def __init__(self) -> None:
        self.looks = Looks()


_here = _Here()


class _Noting(torch.Tensor):
    """A tensor that notes in this thread's `Looks` what users' code asks of it; so do results."""

    @property
    def __class__(self) -> Any:
        if is_users(sys._getframe(1)):
            _here.looks.classes = True
        return torch.Tensor

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise TypeError("the class of a tensor that notes is not to be changed")

    def __getattr__(self, name: str) -> Any:
        held = vars(self).get(_HELD, {})
        if is_users(sys._getframe(1)) and not name.startswith("__"):
            _here.looks.attributes.add(name)
        if name in held:
            return held[name]
        raise AttributeError(f"'Tensor' object has no attribute '{name}'")


def looks(model: nn.Module, inputs: ExampleInputs) -> Looks:
    """What ``model`` asks of the classes and attributes of tensors, where it gets ``inputs``.

    Where it does not run on tensors of another class, it is taken to ask for the class.

    Raises:
        CaptureError: if it reads an attribute that an example was given.
    """
    found = Looks()
    args, kwargs = pytree.tree_map(_noting, inputs.copied())
    ours = copied(model)
    try:
        with _noted(found):
            answer_to(ours, args, kwargs)
    except Exception:
        found.classes = True
    for tensor in pytree.tree_leaves((inputs.args, dict(inputs.kwargs))):
        own = vars(tensor) if isinstance(tensor, torch.Tensor) else {}
        if name := next(iter(found.attributes.intersection(own)), None):
            raise CaptureError(
                f"{type(model).__name__} reads {name}, an attribute that an example tensor was "
                f"given, which a graph cannot: pass it as an argument. {WAY_OUT}"
            )
    return found


@contextmanager
def _noted(found: Looks) -> Iterator[None]:
    before, _here.looks = _here.looks, found
    try:
        with profiled(found.note):
            yield
    finally:
        _here.looks = before


def _noting(value: Any) -> Any:
    if type(value) is not torch.Tensor or value.layout is not torch.strided:
        return value
    tensor = value.as_subclass(_Noting)
    setattr(tensor, _HELD, dict(vars(value)))
    return tensor
