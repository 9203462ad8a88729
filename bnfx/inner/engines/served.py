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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from bnfx.errors import InnerWarning
from bnfx.inner.answers import difference
from bnfx.inner.base import KEPT, EngineRefusal
from bnfx.inner.engines.aten_graph import (
    Traced,
    aten_graph,
    signature,
    weights_signature,
    widened,
)
from bnfx.passes.user_warnings import warn
from bnfx.torch_private import FakeTensor

log = logging.getLogger("bnfx")

# One graph is built for so many combinations of sizes; PyTorch runs others.
MAX_SIZES = 16

Run = Callable[[Sequence[Any]], list[torch.Tensor]]


class Engine(Protocol):
    """A compiler for inference.

    Attributes:
        name: for sentences.
        allowed: dtype -> the error of an answer that counts as rounding.
    """

    name: str
    allowed: Mapping[torch.dtype, float]

    def build(self, graph: fx.GraphModule) -> Run:
        """Compile a graph of ATen operators.

        What it gives takes the tensors and numbers of a call, all finite, in other dtypes than
        float32 where nothing but a conversion reads them, and returns outputs that are contiguous,
        in float32, in memory of torch's own.

        Raises:
            EngineRefusal: naming what it does not take.
        """


@dataclass(frozen=True)
class _Output:
    """One of what the graph returns.

    Args:
        at: which of the engine's outputs it is; ``None``: it is ``None``.
        stride: if it is not contiguous, or not in float32.
    """

    at: int | None
    stride: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32

    @staticmethod
    def like(at: int, value: torch.Tensor) -> _Output:
        plain = value.is_contiguous() and value.dtype == torch.float32
        return _Output(at, None if plain else value.stride(), value.dtype)

    def of(self, answers: Sequence[torch.Tensor]) -> torch.Tensor | None:
        if self.at is None:
            return None
        ours = answers[self.at]
        if self.stride is None:
            return ours
        return torch.empty_strided(ours.shape, self.stride, dtype=self.dtype).copy_(ours)


@dataclass(frozen=True, eq=False)
class _Built:
    """What was built for one combination of sizes; ``None``: PyTorch runs it.

    Args:
        run: takes what ``widen`` makes of the arguments.
        wide: what ``run`` was built from; gone once that is checked.
    """

    run: Run | None
    widen: Callable[[Sequence[Any]], Sequence[Any]] = tuple
    wide: fx.GraphModule | None = None
    outputs: tuple[_Output, ...] = ()
    checked: bool = False


_IN_TORCH = _Built(None, checked=True)


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
        self._traces: dict[object, Traced] = module.meta.get(KEPT, {})
        self._built: dict[object, _Built] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._warned = False

    def prepare(self, examples: Sequence[Any]) -> None:
        """Build for inputs like these now.

        Raises:
            EngineRefusal: if the engine does not take the graph.
        """
        self._built[signature(examples)] = self._build(examples)

    def __call__(self, *args: Any) -> Any:
        built = self._built.get(signature(args))
        if built is None or not built.checked:
            return self._first(args, built)
        if built.run is None or os.getpid() != self._process or not _usual(args):
            return self._in_torch(args)  # an engine's threads do not outlive a fork
        answers = built.run(built.widen(args))
        return tuple(output.of(answers) for output in built.outputs)

    def _in_torch(self, args: Sequence[Any]) -> Any:
        with torch.no_grad():
            return self._module(*args)

    def _first(self, args: Sequence[Any], built: _Built | None) -> Any:
        """PyTorch's answer, against which the engine's is held."""
        theirs = self._in_torch(args)
        if os.getpid() != self._process or not _usual(args):
            return theirs
        if any(isinstance(value, FakeTensor) for value in args):
            return theirs
        key = signature(args)
        with self._lock:
            if built is None:
                if len(self._built) >= MAX_SIZES:
                    self._warn(f"more than {MAX_SIZES} sizes: PyTorch runs the graph for others")
                    return theirs
                try:
                    built = self._build(args)
                except Exception as error:
                    self._warn(f"PyTorch runs the graph for some sizes: {error}")
                    built = _IN_TORCH
            self._built[key] = self._checked(built, args, theirs)
        return theirs

    def _build(self, args: Sequence[Any]) -> _Built:
        wide, widen = widened(self._module, args)
        key = weights_signature(wide), signature(args)
        traced = self._traces.get(key)
        if traced is None:
            traced = self._traces[key] = aten_graph(wide, widen(args))
        return _Built(self._engine.build(traced.bound(wide)), widen, wide)

    def _checked(self, built: _Built, args: Sequence[Any], theirs: Any) -> _Built:
        """What serves from now on."""
        if built.run is None:
            return _IN_TORCH
        try:
            outputs = self._compared(built, args, theirs)
        except Exception as error:
            self._warn(f"it answers otherwise than PyTorch, which runs the graph: {error}")
            return _IN_TORCH
        return _Built(built.run, built.widen, None, outputs, checked=True)

    def _compared(self, built: _Built, args: Sequence[Any], theirs: Any) -> tuple[_Output, ...]:
        """How the engine's outputs are those that PyTorch gave.

        Raises:
            EngineRefusal: if they are not.
        """
        assert built.run is not None and built.wide is not None
        wide = built.widen(args)
        answers = built.run(wide)
        at = iter(range(len(answers)))
        outputs = [
            _Output(None) if value is None else _Output.like(next(at), value) for value in theirs
        ]
        with torch.no_grad():
            exact = theirs if built.wide is self._module else built.wide(*wide)
        for output, expected, given in zip(outputs, exact, theirs, strict=True):
            if output.at is None:
                continue
            ours = answers[output.at]
            laid_out = torch.empty_strided(ours.shape, expected.stride(), dtype=ours.dtype)
            problem = difference(laid_out.copy_(ours), expected, self._engine.allowed)
            returned = output.of(answers)
            if returned is None or not torch.equal(returned.isfinite(), given.isfinite()):
                problem = problem or "infinite in other places"
            if problem is not None:
                raise EngineRefusal(problem)
        return tuple(outputs)

    def _warn(self, message: str) -> None:
        log.warning("bnfx: %s: %s", self._engine.name, message)
        if not self._warned:
            self._warned = True
            warn(f"bnfx: {self._engine.name}: {message}", InnerWarning)


def _usual(args: Sequence[Any]) -> bool:
    """Whether all numbers are finite. A sum is enough: infinities and NaN show in it."""
    return all(
        bool(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)).isfinite())
        for value in args
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )
