"""An engine as an inner compiler."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Compiled, EngineRefusal, Inner
from bnfx.inner.engines.served import Engine, Served

_PROCESS = os.getpid()


def as_inner(engine: Engine, fallback: Inner) -> Inner:
    """The inner compiler. Args: ``fallback`` has the graphs that the engine does not take."""

    def freeze(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        if torch.is_autocast_enabled("cpu"):
            raise EngineRefusal(f"{engine.name} does not take a graph under autocast")
        if os.getpid() != _PROCESS:
            raise EngineRefusal(f"{engine.name} does not run in a forked process")
        served = Served(module, engine)
        examples = [_sized(value, engine) for value in example_inputs]
        try:
            served.prepare(examples)
        except EngineRefusal as refusal:
            raise EngineRefusal(f"{engine.name} does not take a graph: {refusal}") from None
        return served

    return dataclasses.replace(
        fallback,
        freeze=freeze,
        pack=None,
        unpackable=f"{engine.name} takes weights as constants",
        is_inductor=False,
        fallback=fallback,
    )


def _sized(value: Any, engine: Engine) -> Any:
    """An example with numbers for what Dynamo has as symbols."""

    def hint(size: Any) -> int:
        found = size.node.hint if isinstance(size, torch.SymInt) else size
        if found is None:
            why = f"{engine.name} does not take a graph whose sizes depend on numbers"
            raise EngineRefusal(why)
        return int(found)

    if isinstance(value, torch.SymInt):
        return hint(value)
    if isinstance(value, torch.Tensor):
        size, stride = [*map(hint, value.shape)], [*map(hint, value.stride())]
        return torch.empty_strided(size, stride, dtype=value.dtype, device=value.device)
    return value
