"""A graph without effects, built anew for each combination of sizes that it is called with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.locks import Lock, compiling
from bnfx.inner.tvm.part import TvmPart
from bnfx.inner.tvm.placement import Placement, warn
from bnfx.inner.tvm.specialise import specialised
from bnfx.inner.tvm.stages import staged
from bnfx.torch_private import FakeTensor, without_autocast
from bnfx.tvm.settings import Settings

log = logging.getLogger("bnfx")

# One graph is compiled for so many sizes; others run in PyTorch.
MAX_SIZES = 16

Compiled = Callable[..., Any]


class PerSize:
    """Takes one list of arguments, as AOTAutograd calls it.

    Args:
        graph: of ATen operators, without effects.
        settings: of the build.
        constants: tensors that never change: an argument that is one of these is built in.
    """

    _boxed_call = True

    def __init__(
        self, graph: fx.GraphModule, settings: Settings, constants: Collection[torch.Tensor]
    ) -> None:
        self._graph = graph
        self._settings = settings
        self._constants = tuple(constants)
        self._fixed = frozenset(map(id, constants))
        self._built: dict[object, Compiled] = {}
        self._lock = Lock()
        self._full = False

    def __call__(self, args: list[Any]) -> Any:
        given = tuple(args)
        args.clear()  # as who is called this way must: the caller's references are done with
        if any(isinstance(value, FakeTensor) for value in given):
            return self._graph(*given)  # DDP's graph splitter asks for the outputs' strides
        return self._prepare(given)(*given)

    def _prepare(self, args: Sequence[Any]) -> Compiled:
        key = tuple(map(self._signature, args))
        built = self._built.get(key)
        if built is not None:
            return built
        with compiling():  # tracing is for one thread of a process at a time
            return self._lock.run(lambda: self._new(key, args))

    def _new(self, key: object, args: Sequence[Any]) -> Compiled:
        built = self._built.get(key)
        if built is None and len(self._built) < MAX_SIZES:
            built = self._build(args)
            self._built = {**self._built, key: built}
        if built is None:
            built = self._graph
            if not self._full:
                self._full = True
                warn(f"more than {MAX_SIZES} sizes: PyTorch runs the graph for others")
        return built

    def _signature(self, value: Any) -> object:
        if isinstance(value, torch.Tensor):
            fixed = id(value) if id(value) in self._fixed else None
            return (tuple(value.shape), value.stride(), value.dtype, value.device, fixed)
        return (type(value), repr(value))  # -0.0 is another number than 0.0, and NaN the same one

    def _build(self, args: Sequence[Any]) -> Compiled:
        """The graph with TVM's parts; PyTorch runs it as it is if something goes wrong."""
        placement = Placement()
        try:
            # Grad and inference modes and autocast are the tracer's; they are done with here.
            with torch.inference_mode(False), torch.no_grad(), without_autocast():
                graph = specialised(self._graph, args, self._fixed)
                built = staged(graph, self._settings, placement, self._part)
        except Exception as error:
            log.debug("bnfx: TVM cannot take a graph", exc_info=True)
            warn(f"TVM cannot take this graph, which runs in PyTorch: {error!r}")
            return self._graph
        log.info("bnfx: %s", placement)
        if placement.torch:
            warn(f"PyTorch runs {placement.in_torch()}")
        if self._settings.report is not None:
            self._settings.report(placement)
        return built

    def _part(self, graph: fx.GraphModule, leaves: Sequence[bool], placement: Placement) -> TvmPart:
        return TvmPart(graph, leaves, placement, self._settings)
