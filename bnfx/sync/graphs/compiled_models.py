"""The models that ``torch.compile(..., backend="bnfx")`` was given: their parts belong to them.

``compiled.backbone(x)`` runs the untouched submodule: there is no compiled call around it, so
:mod:`bnfx.sync.graphs.compiled_call` finds none. Its layers belong to a compiled model all the
same. Which models those are is noted where ``torch.compile`` and ``Module.compile`` both come by.
A model counts for as long as its compiled form exists.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from bnfx.options import Options
from bnfx.sync.graphs.compiled_call import options_of

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
    if inspect.ismethod(compiled) and compiled.__name__ in _WHOLE:
        compiled = compiled.__self__
    if isinstance(compiled, nn.Module):
        _models.setdefault(context, WeakSet()).add(compiled)
        _noted += 1


def noted_models() -> Iterator[nn.Module]:
    """All that is compiled, the latest first."""
    for models in reversed(list(_models.values())):
        yield from list(models)


def compiled_model_of(module: nn.Module) -> tuple[nn.Module, Options] | None:
    """The compiled model that ``module`` is a part of, and its options, if bnfx compiled one.

    A layer that was in none is looked for anew once something else is compiled.
    """
    if _strangers.get(module) == _noted:
        return None
    off = None
    for context, models in list(_models.items()):
        options = options_of(getattr(context, "callback", None))
        if options is None:
            continue
        for model in list(models):
            if any(each is module for each in model.modules()):
                if options.sync != "off":
                    return model, options
                off = model, options
    if off is None:
        _strangers[module] = _noted
    return off
