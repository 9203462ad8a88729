"""Hands a captured graph to AOTAutograd, and what comes of it to TVM."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd

from bnfx.inner.base import Inner
from bnfx.inner.tvm.placement import warn
from bnfx.inner.tvm.sized import PerSize
from bnfx.inner.tvm.specialise import fake
from bnfx.torch_private import FakeTensorMode, RestartAnalysis
from bnfx.tvm.settings import Settings

Compiled = Callable[..., Any]


def inner(options: Mapping[str, Any]) -> Inner:
    """The inner compiler that these options describe.

    Raises:
        OptionError: for an unknown option, or a target that this TVM has no code for.
    """
    settings = Settings.parse(options)

    def compile_(
        module: fx.GraphModule, example_inputs: Sequence[Any], frozen: bool = False
    ) -> Compiled:
        if torch.is_grad_enabled() and any(map(_needs_gradient, _all(module, example_inputs))):
            warn("gradients are needed, and TVM has none: the graph runs in PyTorch")
            return module
        if _share_memory(example_inputs) and (obstacle := _obstacle(module, example_inputs)):
            warn(f"inputs share memory, and {obstacle}: the graph runs in PyTorch")
            return module
        constants = _tensors(module) if frozen else ()

        def functional(graph: fx.GraphModule, _: Sequence[Any]) -> Compiled:
            return PerSize(graph, settings, constants)

        backend = aot_autograd(fw_compiler=functional, inference_compiler=functional)
        try:
            with torch.no_grad():
                compiled: Compiled = backend(module, list(example_inputs))
        except RestartAnalysis:
            raise  # Dynamo traces once more, with what was learnt, and comes back
        except Exception as error:
            warn(f"the graph cannot be traced, and runs in PyTorch: {error!r}")
            return module
        return compiled

    return Inner(compile_, functools.partial(compile_, frozen=True))


def _tensors(module: fx.GraphModule) -> tuple[torch.Tensor, ...]:
    return (*module.parameters(), *module.buffers())


def _share_memory(example_inputs: Sequence[Any]) -> bool:
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    storages = {
        value.untyped_storage()._cdata for value in tensors if value.layout is torch.strided
    }
    return len(storages) < len(tensors)


def _obstacle(module: fx.GraphModule, example_inputs: Sequence[Any]) -> str | None:
    """Why a graph whose inputs share memory is not for AOTAutograd, if it is not.

    AOTAutograd knows of writes to such inputs, but fails to give back views of them.
    """
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            fakes = [fake(v) if isinstance(v, torch.Tensor) else v for v in example_inputs]
            module(*fakes)
    except Exception as error:
        return f"whether they are written to cannot be told ({error!r})"
    written = any(isinstance(value, torch.Tensor) and value._version for value in fakes)
    return "are written to" if written else None


def _all(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Iterable[Any]:
    return (*example_inputs, *_tensors(module))


def _needs_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad
