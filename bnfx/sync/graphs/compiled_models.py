"""The models that ``torch.compile(..., backend="bnfx")`` was given: their parts belong to them.

``compiled.backbone(x)`` runs the untouched submodule: there is no compiled call around it, so
:mod:`bnfx.sync.graphs.compiled_call` finds none. Its layers belong to a compiled model all the
same. Which models those are is noted where ``torch.compile`` and ``Module.compile`` both come by.
A model counts for as long as its compiled form exists.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from bnfx.options import Options
from bnfx.sync.graphs.compiled_call import options_of
from bnfx.sync.graphs.copied import mark
from bnfx.sync.group import is_up

# What Module.compile and torch.compile hand over of a module: itself, or one of these.
_WHOLE = frozenset({"__call__", "_call_impl", "_wrapped_call_impl", "forward"})
# The models that each compiled form is of.
_models: WeakKeyDictionary[Any, WeakSet[nn.Module]] = WeakKeyDictionary()
# How many had been noted when a layer was found to be in none of them.
_strangers: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_noted = 0


def note_compiled_models() -> None:
    """From now on, note what is compiled."""
    from torch._dynamo import eval_frame

    context = getattr(eval_frame, "_TorchDynamoContext", None)
    original = vars(context or object).get("__call__")
    if context is None or original is None or hasattr(original, "_bnfx_notes"):
        return

    @functools.wraps(original)
    def noting(self: Any, fn: Any) -> Any:
        _note(self, fn)
        return original(self, fn)

    noting._bnfx_notes = True  # type: ignore[attr-defined]
    context.__call__ = torch._dynamo.disable(noting)  # type: ignore[no-untyped-call]


def _note(context: Any, compiled: Any) -> None:
    global _noted
    compiled = getattr(compiled, "__wrapped__", compiled)
    in_place = False
    if inspect.ismethod(compiled) and compiled.__name__ in _WHOLE:
        # What torch.compile(model) returns hands over a method of the model, too, but later.
        known = compiled.__self__ in _models.get(context, ())
        in_place = compiled.__name__ == "_call_impl" and not known
        compiled = compiled.__self__
    if isinstance(compiled, nn.Module):
        _models.setdefault(context, WeakSet()).add(compiled)
        _noted += 1
        if in_place:
            mark(compiled, getattr(context, "callback", None))


def holder_of(module: nn.Module) -> nn.Module | None:
    """The compiled model that ``module`` is a part of, if any; the latest, if several.

    A layer that was in none is looked for anew once something else is compiled.
    """
    if _strangers.get(module) == _noted:
        return None
    for models in reversed(list(_models.values())):
        for model in list(models):
            if is_part_of(model, module):
                return model
    _strangers[module] = _noted
    return None


def is_part_of(model: nn.Module, module: nn.Module) -> bool:
    """Whether ``module`` is in ``model``, or the same.

    Asked each time that a layer of no model trains beside compiled ones, since layers come and go
    in ways that torch tells nobody of: so it does as little as it can (some 20 us for resnet18).
    """
    seen, left = {id(model)}, [model]
    for each in left:
        if each is module:
            return True
        for child in each._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                left.append(child)
    return False


def compiled_model_of(module: nn.Module) -> tuple[nn.Module, Options] | None:
    """The compiled model that ``module`` is a part of, and its options, if bnfx compiled one.

    Where ranks could share, a layer that was in none is looked for anew in each call: it may have
    been put into one since. Elsewhere only once something else is compiled.
    """
    if not is_up() and _strangers.get(module) == _noted:
        return None
    found = None
    for context, models in list(_models.items()):
        options = options_of(getattr(context, "callback", None))
        if options is None or (found is not None and options.sync == "off"):
            continue
        for model in list(models):
            if is_part_of(model, module):
                found = model, options
                break
        if found is not None and found[1].sync != "off":
            break
    if found is None:
        _strangers[module] = _noted
    else:
        _strangers.pop(module, None)
    return found
