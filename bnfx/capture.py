"""From a model to fx graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from bnfx.errors import CaptureError


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module behind what ``torch.compile`` returned."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def is_training(model: nn.Module) -> bool:
    """Whether the model, as it would run, is in training mode.

    A ``GraphModule`` has no behaviour of its own: the modules that it calls have. (What
    ``torch.export`` gives is marked as training for good, and its calls carry their own flags.)
    """
    if not isinstance(model, fx.GraphModule):
        return model.training
    called = (model.get_submodule(node.target) for node in model.graph.find_nodes(op="call_module"))
    own = (module for module in called if not type(module).__module__.startswith("torch.export"))
    return any(is_training(module) for module in own)


class _Tracer(fx.Tracer):
    """Traces accesses to buffers too: ``self.count.add_(1)`` in forward belongs into the graph."""

    proxy_buffer_attributes = True


def trace(model: nn.Module) -> fx.GraphModule:
    """``model`` itself if it is a ``GraphModule``, else its symbolic trace.

    Raises:
        CaptureError: if its control flow depends on data.
    """
    if isinstance(model, fx.GraphModule):
        return model
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:
        raise CaptureError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Use "
            'torch.compile(model, backend="bnfx"), which needs no whole graph, or pass the '
            "GraphModule of a part that can be traced"
        ) from error


def describe_shapes(module: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
    """Note the shape and dtype of every value in ``node.meta["val"]``; nothing is computed.

    Raises:
        CaptureError: if the inputs do not fit the model.
    """
    if not example_inputs:
        return
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with torch.no_grad():
            FakeTensorProp(module, mode).propagate(*example_inputs)
    except Exception as error:
        raise CaptureError(f"the example inputs do not fit the model: {error}") from error
