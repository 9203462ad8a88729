"""A captured graph as ATen operators without effects, for sizes that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from bnfx.inner.base import EngineRefusal
from bnfx.torch_private import FakeTensorMode, tracing, without_autocast


def aten_graph(module: fx.GraphModule, args: Sequence[Any]) -> fx.GraphModule:
    """``module`` traced for inputs like ``args``; every node has ``meta["val"]``.

    Args:
        module: holds its weights as attributes.
        args: tensors, of which sizes, strides and dtypes are read, and numbers.

    Raises:
        EngineRefusal: if it writes to what it is given, or what it returns shares memory.
    """
    with (
        tracing(None),
        torch.utils._python_dispatch._disable_current_modes(),
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(),
    ):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        held = {name: mode.from_tensor(value) for name, value in _named(module)}
        with mode:
            fakes = [_fake(value) if isinstance(value, torch.Tensor) else value for value in args]
            _refuse_effects(module, fakes, held)
            functional = torch.func.functionalize(module, remove="mutations")
            traced = make_fx(functional, _allow_non_fake_inputs=True)(*fakes)
    traced.graph.eliminate_dead_code()
    return traced


def _fake(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _refuse_effects(module: fx.GraphModule, fakes: Sequence[Any], held: Mapping[str, Any]) -> None:
    """An engine's outputs are memory of their own, and it writes to nothing else."""
    inputs = [value for value in (*fakes, *held.values()) if isinstance(value, torch.Tensor)]
    versions = [value._version for value in inputs]
    answers = torch.func.functional_call(module, dict(held), tuple(fakes))
    if versions != [value._version for value in inputs]:
        raise EngineRefusal("it writes to an input")
    outputs = tuple(answers) if isinstance(answers, (tuple, list)) else (0,)
    if not all(value is None or isinstance(value, torch.Tensor) for value in outputs):
        raise EngineRefusal("what it returns is no tuple of tensors")
    memories = [
        value.untyped_storage()._cdata for value in (*inputs, *outputs) if value is not None
    ]
    theirs = set(memories[: len(inputs)])
    ours = memories[len(inputs) :]
    if theirs & set(ours) or len(ours) > len(set(ours)):
        raise EngineRefusal("an output is a view of an input or of another output")


def _named(module: fx.GraphModule) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
