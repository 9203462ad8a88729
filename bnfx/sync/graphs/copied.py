"""Copies of models that were compiled in place, which torch does not compile.

``copy.deepcopy(model)`` after ``model.compile(...)`` gives a model that runs in eager mode, and so
does pickling: torch leaves the compiled form out. The layers of the copy belong to no compiled
model, so there is nobody whose options say whether they share; what the user meant, to share or
not, is not known. The layers of a model that is compiled in place are marked, so that those of a
copy can say that they train alone.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.errors import OptionError
from bnfx.sync.graphs.compiled_call import options_of

# In a layer's __dict__, which copies and pickles have too: a plain string, so that whoever loads
# the layer needs no bnfx.
_MARK = "_bnfx_sync_in_place"
_originals: WeakSet[nn.Module] = WeakSet()


def mark(model: nn.Module, callback: Any) -> None:
    """Note that ``model`` was compiled in place, with Dynamo's ``callback``."""
    try:
        options = options_of(callback)
    except OptionError:  # said when the model is called
        return
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            vars(layer).pop(_MARK, None)
            if options is not None and options.sync != "off":
                vars(layer)[_MARK] = options.sync
                _originals.add(layer)


def sync_of_original(module: nn.Module) -> str | None:
    """The option ``sync`` of the model that ``module`` was copied from, if it was compiled so."""
    found = vars(module).get(_MARK)
    return None if module in _originals else found
