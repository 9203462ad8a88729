"""From a model to fx graphs."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.passes.fx.calls.modules import is_registered


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


_IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor"


class _Proxy(fx.Proxy):
    """A proxy that knows ``x *= 2`` for a write; torch's own records ``x = x * 2``."""


def _in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", op, (self, other), {})

    return write


for _name in _IN_PLACE.split():
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class Tracer(fx.Tracer):
    """Traces accesses to buffers too: ``self.count.add_(1)`` in forward belongs into the graph."""

    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return is_registered(module) or bool(super().is_leaf_module(module, path))


class _DeepTracer(Tracer):
    """Traces through parametrized modules, so that it is seen how they compute their weights."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        inside = "parametrizations" in path.split(".")
        if inside or nn.utils.parametrize.is_parametrized(module):
            return False
        return super().is_leaf_module(module, path)


def trace(model: nn.Module, tracer: Tracer | None = None) -> fx.GraphModule:
    """``model`` itself if it is a ``GraphModule``, else its symbolic trace.

    Args:
        model: what tracing leaves behind, it leaves there.
        tracer: one that watches; parametrized modules are then left whole.

    Raises:
        CaptureError: if its control flow depends on data, or it enters autocast.
    """
    if isinstance(model, fx.GraphModule):
        return model
    kind = type(model).__name__
    with mock.patch.object(torch.autocast, "__enter__", _refuse_autocast):
        if tracer is None and any(map(nn.utils.parametrize.is_parametrized, model.modules())):
            with contextlib.suppress(Exception):  # not all can be: spectral_norm asks for a rank
                return fx.GraphModule(model, _graph(_DeepTracer(), model), kind)
        try:
            return fx.GraphModule(model, _graph(tracer or Tracer(), model), kind)
        except Exception as error:
            raise CaptureError(f"torch.fx cannot trace {kind}: {error}. {_WAY_OUT}") from error


def _graph(tracer: Tracer, model: nn.Module) -> fx.Graph:
    graph = tracer.trace(model)
    graph._tracer_cls = fx.Tracer  # ours would ask for bnfx where a graph is unpickled
    return graph


def check_traceable(model: nn.Module) -> None:
    """Raise :class:`CaptureError` for what tracing and copying would lose without a word."""
    kind = type(model).__name__
    hooks = (*model._forward_hooks.values(), *model._forward_pre_hooks.values())
    if not all(getattr(hook, "__module__", "").startswith("torch.export") for hook in hooks):
        raise CaptureError(f"{kind} has forward hooks, which a graph cannot hold. {_WAY_OUT}")
    if not isinstance(model, fx.GraphModule):
        check_own_forward(model)


def check_own_forward(model: nn.Module) -> None:
    """Raise :class:`CaptureError` unless calling ``model`` runs the forward of its class."""
    kind = type(model).__name__
    if type(model).__call__ is not nn.Module.__call__ or "forward" in vars(model):
        raise CaptureError(f"{kind} replaces __call__ or its own forward. {_WAY_OUT}")


_WAY_OUT = (
    'Use torch.compile(model, backend="bnfx"), which needs no whole graph, or pass the GraphModule '
    "of a part that can be traced"
)


def _refuse_autocast(self: torch.autocast) -> None:
    raise CaptureError("it enters torch.autocast, which torch.fx does not record")


def copied(value: Any) -> Any:
    """A deep copy.

    Raises:
        CaptureError: if there can be none, as of lazy modules and graph tensors.
    """
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise CaptureError(f"{type(value).__name__} cannot be copied: {error}") from error
