"""An engine as an inner compiler."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Compiled, EngineRefusal, Inner
from bnfx.inner.engines.built import Engine
from bnfx.inner.engines.served import Served

log = logging.getLogger("bnfx")

_PROCESS = os.getpid()


def as_inner(engine: Engine, fallback: Inner) -> Inner:
    """The inner compiler. Args: ``fallback`` has the graphs that the engine does not take."""

    def freeze(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        if torch.is_autocast_enabled("cpu"):
            raise EngineRefusal(f"{engine.name} does not take a graph under autocast")
        if os.getpid() != _PROCESS:
            raise EngineRefusal(f"{engine.name} does not run in a forked process")
        served = Served(module, engine)
        try:
            served.prepare([sized(value) for value in example_inputs])
        except Exception as error:
            log.info("bnfx: %s does not take a graph", engine.name, exc_info=True)
            raise EngineRefusal(
                f"{engine.name} does not take a graph: {first_line(error)}"
            ) from None
        return served

    return dataclasses.replace(
        fallback,
        freeze=freeze,
        pack=None,
        unpackable=f"{engine.name} takes weights as constants",
        is_inductor=False,
        fallback=fallback,
    )


def first_line(error: Exception) -> str:
    """What an error says; engines' messages go on with their own sources."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def sized(value: Any) -> Any:
    """An example with numbers for what Dynamo has as symbols."""
    if isinstance(value, torch.SymInt):
        return _hint(value)
    if isinstance(value, torch.Tensor):
        size, stride = [*map(_hint, value.shape)], [*map(_hint, value.stride())]
        return torch.empty_strided(size, stride, dtype=value.dtype, device=value.device)
    return value


def _hint(size: Any) -> int:
    found = size.node.hint if isinstance(size, torch.SymInt) else size
    if found is None:
        raise EngineRefusal("its sizes depend on numbers")
    return int(found)
