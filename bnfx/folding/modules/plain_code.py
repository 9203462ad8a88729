"""Whether all code of a model is of a kind that cannot get at a layer but by calling it whole.

What is allowed is listed, and little: ``self`` only in front of an attribute; a module above a
changed layer only called, compared with ``None``, or gone through by a loop that calls each; no
other look-up, no closures, context managers, exceptions that are caught, or decorators. What is not
listed is not allowed, in any method, whoever calls it. So ``fold(keep="auto")`` gives the same
class without reading what code means.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator
from types import FunctionType

import torch
from torch import nn

from bnfx.folding.modules.plain_functions import INTERNAL, PlainReader, is_data
from bnfx.folding.modules.reading.functions.library import is_known
from bnfx.passes.fx.calls.modules import has_hooks


def strange_code(model: nn.Module, changed: Collection[str]) -> str | None:
    """What of the model's code is not plain; ``None`` if all is.

    Args:
        model: as it was.
        changed: the paths of the layers that a fold changed.
    """
    above = set(map(_parent, changed))
    while more := set(map(_parent, above)) - above:
        above |= more
    modules = dict(model.named_modules())
    layers = {modules[path] for path in changed}
    names: dict[type, set[str]] = {}  # of modules that are changed, or above such
    for path in above:
        module = modules[path]
        inside = {p.rpartition(".")[2] for p in (*changed, *above) if p and _parent(p) == path}
        for kind in type(module).__mro__:
            names.setdefault(kind, set()).update(inside)
    for path in (*above, *changed):
        module = modules[path]
        where = path or type(module).__name__
        if has_hooks(module) or "forward" in vars(module):
            return f"{where} has hooks or a forward of its own"
        if path in above and (held := next(_held_objects(module), None)) is not None:
            return f"{where} holds an object, {held}"
        runs = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
        if path in changed and not is_known(runs):
            return f"{path} has a forward of its own"
        for kind in type(module).__mro__:
            if not is_known(kind) and (
                why := _strange_class(kind, module, names.get(kind, set()), layers)
            ):
                return why
    return None


def _held_objects(module: nn.Module) -> Iterator[str]:
    """Attributes that are neither data nor what layers are made with."""
    for name, value in vars(module).items():
        made_with = value.func if isinstance(value, functools.partial) else value
        given = (value.args, value.keywords) if isinstance(value, functools.partial) else ()
        known = isinstance(made_with, type) or inspect.isbuiltin(made_with) or is_data(made_with)
        if name not in INTERNAL and not (known and is_data(given)):
            yield name


def changed_layers(before: nn.Module, after: nn.Module) -> set[str]:
    """The paths of modules of which a fold made others, or gave other weights."""
    now = dict(after.named_modules())
    return {
        path
        for path, module in before.named_modules()
        if not isinstance(module, torch.jit.ScriptModule) and _is_other(module, now[path])
    }


def _is_other(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other):
        return True
    for before, after in ((one._parameters, other._parameters), (one._buffers, other._buffers)):
        for name in {*before, *after}:
            first, second = before.get(name), after.get(name)
            if first is None or second is None:
                if first is not second:
                    return True
            elif first.shape != second.shape or not _equal(first, second):
                return True
    return False


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.detach(), other.detach()
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _strange_class(
    kind: type, module: nn.Module, names: set[str], changed: set[nn.Module]
) -> str | None:
    if type(kind) is not type:
        return f"{kind.__name__} has a metaclass"
    lists = {n for n, each in module.named_children() if _may_be_gone_through(each, changed)}
    for name, value in vars(kind).items():
        if name in ("__init__", "__module__", "__doc__", "__annotations__", "__qualname__"):
            continue
        if name in ("__constants__", "__jit_unused_properties__", "__firstlineno__"):
            continue
        if name in ("__static_attributes__", "__parameters__", "__orig_bases__"):
            continue
        if is_data(value):
            continue
        function = value.__func__ if isinstance(value, staticmethod) else value
        if not isinstance(function, FunctionType) or name.startswith("__"):
            return f"{kind.__name__}.{name} is no plain method"
        owner = None if isinstance(value, staticmethod) else kind
        if why := PlainReader(function, names, owner, lists).read():
            return why
    return None


def _may_be_gone_through(module: nn.Module, changed: set[nn.Module]) -> bool:
    """Whether it is a list of blocks that are whole."""
    return type(module) is nn.ModuleList and changed.isdisjoint(module)
