"""BatchNorms that TorchScript runs: nothing there can share statistics, so that is said.

A scripted or traced part of a compiled model is code of its own, which Dynamo leaves alone, and in
which no Python runs. What can be seen is its call.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from bnfx.options import Options
from bnfx.sync.graphs.compiled_call import nearest_call, path_in_call
from bnfx.sync.graphs.compiled_models import compiled_model_of
from bnfx.sync.graphs.ownership import raise_or_warn
from bnfx.sync.group import peers_of

_said: WeakSet[nn.Module] = WeakSet()


def watch_scripted_calls() -> None:
    """From now on, look at calls of TorchScript modules in training."""
    kind: Any = torch.jit.ScriptModule
    if "__call__" in vars(kind):
        return

    def looking_first(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:  # not by getattr: Dynamo, which knows no such attribute, would take the default
            training = self.training
        except AttributeError:  # what is frozen has no mode
            training = False
        if training and not torch.compiler.is_compiling():
            _look_at(self)
        return nn.Module.__call__(self, *args, **kwargs)  # as it is now: torch.fx replaces it

    kind.__call__ = looking_first


@torch._dynamo.disable  # type: ignore[untyped-decorator]
def _look_at(scripted: nn.Module) -> None:
    if scripted in _said or not (layers := _training_layers(scripted)):
        return
    options = _options(scripted)
    if options is None or options.sync == "off" or peers_of(options.process_group) is None:
        return
    path = path_in_call(scripted) or "a part"
    message = (
        f"TorchScript runs {path} in training, where {layers[0] or 'its BatchNorm'} keeps its "
        "statistics to itself: put the Python module into the model, or the part into evaluation"
    )
    raise_or_warn(message, options.sync == "require")
    _said.add(scripted)


def _options(scripted: nn.Module) -> Options | None:
    """Those of the compiled model that runs it, or that it is a part of."""
    is_within, call = nearest_call()
    if is_within:
        return None if call is None else call.options
    found = compiled_model_of(scripted)
    return None if found is None else found[1]


def _training_layers(scripted: nn.Module) -> list[str]:
    """The paths of its BatchNorms that train."""
    parts = scripted.named_modules()
    named = ((path, str(getattr(each, "original_name", "")), each) for path, each in parts)
    norms = ((path, each) for path, name, each in named if "BatchNorm" in name)
    return [path for path, each in norms if getattr(each, "training", False)]
