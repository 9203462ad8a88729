"""What answers calls: an engine where it is known to be right, else the folded graph in PyTorch.

Engines keep to finite numbers (a NaN may vanish in a ReLU or a maximum), so a call with others is
answered by PyTorch. The first call of each combination of sizes is, too, and the engine's answer is
held against it. A graph in float16 or bfloat16 is built in float32, and held against the graph in
float32: rounded once, at its end, it is nearer to exact numbers than PyTorch's answer.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bnfx.errors import InnerWarning
from bnfx.inner.answers import difference
from bnfx.inner.base import KEPT, EngineRefusal
from bnfx.inner.engines.aten_graph import (
    Traced,
    as_contiguous,
    aten_graph,
    on_fakes,
    open_inputs,
    refuse_effects,
    signature,
    weights_signature,
    widened,
)
from bnfx.inner.engines.built import Built, Engine, Output, Run
from bnfx.inner.engines.finite import usual
from bnfx.inner.engines.lost_nan import refuse_lost_nan
from bnfx.inner.late import captured_as
from bnfx.inner.locks import compiling
from bnfx.passes.user_warnings import warn
from bnfx.torch_private import FakeTensor

log = logging.getLogger("bnfx")

# Combinations of sizes that one graph is built for before it is built with open ones, if Dynamo has
# any open.
MAX_SIZES_WHEN_OPEN = 2
# Builds with open sizes: symbols that were equal in one call may not be in another.
MAX_OPEN = 3
# Combinations that a graph is built for in all; PyTorch runs others.
MAX_SIZES = 16
# Combinations of which it is remembered that an engine with open sizes was right.
MAX_KNOWN = 1024

_IN_TORCH = Built(None, checked=True)


class Served:
    """A graph for one moment's weights, which it holds.

    Args:
        module: the folded graph, its weights attributes.
        engine: that compiles it.
    """

    def __init__(self, module: fx.GraphModule, engine: Engine) -> None:
        self._module = module
        self._engine = engine
        # Of graphs of the same form, which hold the weights of other moments.
        self._traces: dict[object, Traced] = module.meta.get(KEPT, {}).setdefault("traces", {})
        self._captured = captured_as(module)
        self._open: tuple[Built, ...] = ()
        self._built: dict[object, Built] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._warned = False

    def prepare(self, examples: Sequence[Any]) -> None:
        """Build for inputs like these now.

        Raises:
            EngineRefusal: if the engine does not take the graph.
        """
        self._built[signature(examples)] = self._build(examples)

    def verify(self, args: Sequence[Any]) -> None:
        """Hold the engine's answer against PyTorch's now.

        Raises:
            EngineRefusal: if it answers otherwise, or such numbers are PyTorch's.
        """
        if not usual(args):
            raise EngineRefusal(
                f"{self._engine.name}: an example's numbers, or their sum, are not finite"
            )
        built = self._built.get(signature(args)) or self._build(args)
        if built.run is None:
            raise EngineRefusal(f"{self._engine.name} does not take the graph")
        try:
            self._built[signature(args)] = self._compared(built, args, self._in_torch(args))
        except Exception as error:
            why = f"{self._engine.name} answers otherwise than PyTorch: {error}"
            raise EngineRefusal(why) from None

    def __call__(self, *args: Any) -> Any:
        if any(isinstance(value, FakeTensor) for value in args):
            return on_fakes(self._module, args)  # DDP's graph splitter asks for strides
        built = self._built.get(signature(args))
        if built is None or not built.checked:
            return self._first(args)
        if built.run is None or os.getpid() != self._process or not usual(args):
            return self._in_torch(args)  # an engine's threads do not outlive a fork
        answers = built.run(built.widen(args), built.sizes)
        return tuple(output.of(answers) for output in built.outputs)

    def _in_torch(self, args: Sequence[Any]) -> Any:
        with torch.no_grad():
            return self._module(*args)

    def _first(self, args: Sequence[Any]) -> Any:
        """PyTorch's answer, against which the engine's is held."""
        theirs = self._in_torch(args)
        if os.getpid() != self._process or not usual(args):
            return theirs
        key = signature(args)
        with compiling(), self._lock:
            built = self._built.get(key)  # another thread may have been here
            if built is not None and built.checked:
                return theirs
            if built is None:
                try:
                    built = self._new(args, theirs)
                except Exception as error:
                    self._warn(f"PyTorch runs the graph for some sizes: {error}")
                    built = _IN_TORCH
            if len(self._built) >= MAX_KNOWN:
                self._built = {}
            self._built[key] = self._checked(built, args, theirs)
        return theirs

    def _new(self, args: Sequence[Any], theirs: Any) -> Built:
        """For a combination of sizes that nothing was built for."""
        sizes = [tuple(value.shape) for value in theirs if value is not None]
        for each in self._open:
            if each.fits is not None and each.fits(args):
                assert each.wide is not None
                refuse_effects(each.wide, each.widen(args))
                return replace(each, sizes=sizes)
        fixed = sum(each.sizes is None for each in self._built.values())
        if fixed >= MAX_SIZES_WHEN_OPEN and len(self._open) < MAX_OPEN:
            try:
                opened = self._build_open(args)
            except Exception as error:
                log.info("bnfx: %s: sizes stay fixed: %r", self._engine.name, error)
                self._open = (*self._open, _IN_TORCH)  # that was one of the times
            else:
                if opened is not None:
                    self._open = (*self._open, opened)
                    return replace(opened, sizes=sizes)
        if fixed >= MAX_SIZES:
            raise EngineRefusal(f"it was built for {MAX_SIZES} combinations of sizes")
        return self._build(args)

    def _build(self, args: Sequence[Any]) -> Built:
        wide, widen = widened(self._module, args)
        key = weights_signature(wide), signature(args)
        traced = self._traces.get(key)
        if traced is None:
            traced = self._traces[key] = aten_graph(wide, widen(args))
        return Built(self._in_engine(traced, wide), widen, wide)

    def _in_engine(self, traced: Traced, wide: fx.GraphModule) -> Run:
        if not self._engine.keeps_nan:
            refuse_lost_nan(traced.graph)
        return self._engine.build(traced.bound(wide))

    def _build_open(self, args: Sequence[Any]) -> Built | None:
        """With the sizes open that Dynamo had open; ``None`` where it had none."""
        wide, widen = widened(self._module, args)
        opened = open_inputs(self._captured, widen(args))
        if opened is None:
            return None
        traced = aten_graph(wide, widen(args), opened)
        run = self._in_engine(traced, wide)
        guards = opened.guards()  # now: building asked about sizes, too
        return Built(run, widen, wide, fits=lambda args: guards(as_contiguous(args)))

    def _checked(self, built: Built, args: Sequence[Any], theirs: Any) -> Built:
        """What serves from now on."""
        if built.run is None:
            return _IN_TORCH
        try:
            return self._compared(built, args, theirs)
        except Exception as error:
            self._warn(f"it answers otherwise than PyTorch, which runs the graph: {error}")
            return _IN_TORCH

    def _compared(self, built: Built, args: Sequence[Any], theirs: Any) -> Built:
        """What serves from now on, as its outputs are those that PyTorch gave.

        Raises:
            EngineRefusal: if they are not.
        """
        assert built.run is not None and built.wide is not None
        wide = built.widen(args)
        answers = built.run(wide, built.sizes)
        at = iter(range(len(answers)))
        outputs = [
            Output(None) if value is None else Output.like(next(at), value) for value in theirs
        ]
        with torch.no_grad():
            exact = theirs if built.wide is self._module else built.wide(*wide)
        for output, expected, given in zip(outputs, exact, theirs, strict=True):
            if output.at is None:
                continue
            ours = answers[output.at]
            laid_out = ours.new_empty_strided(ours.shape, expected.stride())
            problem = difference(laid_out.copy_(ours), expected, self._engine.allowed)
            returned = output.of(answers)
            if returned is None or not torch.equal(returned.isfinite(), given.isfinite()):
                problem = problem or "infinite in other places"
            if problem is not None:
                raise EngineRefusal(problem)
        return replace(built, wide=None, outputs=tuple(outputs), checked=True)

    def _warn(self, message: str) -> None:
        if self._warned:
            log.warning("bnfx: %s: %s", self._engine.name, message)
        else:
            self._warned = True
            warn(f"bnfx: {self._engine.name}: {message}", InnerWarning)
