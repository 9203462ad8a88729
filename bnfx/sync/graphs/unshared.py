"""BatchNorms in training that bnfx sees and cannot reach, outside of its graphs: it says so.

- *TorchScript*: a scripted or traced part of a compiled model is code of its own, which Dynamo
  leaves alone, and in which no Python runs. What can be seen is its call.
- *The function* ``F.batch_norm``, called by code of a compiled model that Dynamo leaves alone. It
  checks the size of its batch by another function of its module, at which bnfx looks on.
- *Another backend*: ``torch.compile`` of a part of a compiled model, which Dynamo calls where a
  graph of the whole breaks. Dynamo traces through the look-out in BatchNorm's forward.
"""

from __future__ import annotations

import sys
import types
from types import FrameType
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.errors import SyncError
from bnfx.options import Options
from bnfx.passes.fx.training.covers import covering
from bnfx.passes.user_warnings import is_users
from bnfx.sync.graphs.compiled_call import call_around, nearest_call, path_in_call
from bnfx.sync.graphs.compiled_models import compiled_model_of
from bnfx.sync.graphs.ownership import raise_or_warn
from bnfx.sync.group import is_up, peers_of
from bnfx.torch_private import through_dynamo

_said: WeakSet[nn.Module] = WeakSet()
_CHECK = "_verify_batch_size"


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


def watch_function_calls() -> None:
    """From now on, look at calls of ``F.batch_norm`` in training."""
    original = getattr(F, _CHECK, None)
    if not isinstance(original, types.FunctionType) or hasattr(original, "_bnfx_looks"):
        return
    look, frame_above, is_compiling = _look_at_caller, sys._getframe, torch.compiler.is_compiling

    def looking_first(size: Any) -> Any:
        if not is_compiling():
            look(frame_above(1))
        return original(size)

    result = covering(original, looking_first)
    setattr(result, "_bnfx_looks", True)  # noqa: B010
    setattr(F, _CHECK, result)


@torch._dynamo.disable  # type: ignore[untyped-decorator]
def _look_at_caller(frame: FrameType) -> None:
    if not is_up() or frame.f_back is None or frame.f_code is not F.batch_norm.__code__:
        return  # F.group_norm checks its batch in the same way
    x, caller = frame.f_locals.get("input"), frame.f_back
    owner = caller.f_locals.get("self")
    # A layer's own forward is looked at elsewhere; and in evaluation, it may use its batch.
    if type(x) is not torch.Tensor or isinstance(owner, _BatchNorm) or not is_users(caller):
        return
    options = _sharing(_options(owner if isinstance(owner, nn.Module) else None))
    if options is None:
        return
    message = (
        f"{caller.f_code.co_filename}:{caller.f_lineno} calls F.batch_norm in training, outside of "
        "graphs, where it keeps its statistics to itself: use a BatchNorm module, or call "
        "bnfx.sync_batch_norm"
    )
    raise_or_warn(message, options.sync == "require")


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def say_other_backend() -> bool:
    """Say so if a part of a model of ours is being captured for another backend.

    While Dynamo captures a layer in training. Dynamo captures what is compiled within a graph of
    ours for that graph; so this is where the graph broke.
    """
    call = call_around()
    options = _sharing(None if call is None else call.options)
    if options is None:
        return True
    message = (
        "a part of a model compiled with bnfx is compiled with another backend, in which its "
        "BatchNorms keep their statistics to themselves: leave that torch.compile out, or make "
        "them share with bnfx.convert_sync_batchnorm(part)"
    )
    try:
        raise_or_warn(message, options.sync == "require")
    except SyncError as error:
        raise through_dynamo(error) from None
    return True


@torch._dynamo.disable  # type: ignore[untyped-decorator]
def _look_at(scripted: nn.Module) -> None:
    if scripted in _said or not (layers := _training_layers(scripted)):
        return
    options = _sharing(_options(scripted))
    if options is None:
        return
    path = path_in_call(scripted) or "a part"
    message = (
        f"TorchScript runs {path} in training, where {layers[0] or 'its BatchNorm'} keeps its "
        "statistics to itself: put the Python module into the model, or the part into evaluation"
    )
    raise_or_warn(message, options.sync == "require")
    _said.add(scripted)


def _options(part: nn.Module | None) -> Options | None:
    """Those of the compiled model that runs it, or that it is a part of."""
    is_within, call = nearest_call()
    if is_within:
        return None if call is None else call.options
    found = None if part is None else compiled_model_of(part)
    return None if found is None else found[1]


def _sharing(options: Options | None) -> Options | None:
    """Options by which statistics are shared at present; else ``None``."""
    if options is None or options.sync == "off" or peers_of(options.process_group) is None:
        return None
    return options


def _training_layers(scripted: nn.Module) -> list[str]:
    """The paths of its BatchNorms that train."""
    parts = scripted.named_modules()
    named = ((path, str(getattr(each, "original_name", "")), each) for path, each in parts)
    norms = ((path, each) for path, name, each in named if "BatchNorm" in name)
    return [path for path, each in norms if getattr(each, "training", False)]
