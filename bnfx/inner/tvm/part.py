"""A part of a graph that TVM runs."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from bnfx.inner.answers import difference, no_worse
from bnfx.inner.locks import Lock
from bnfx.inner.tvm.placement import Placement, warn
from bnfx.inner.tvm.write import written
from bnfx.tvm import relax as build
from bnfx.tvm.runner import Runner
from bnfx.tvm.settings import Settings
from bnfx.tvm.tune import tuned

log = logging.getLogger("bnfx")


class TvmPart(nn.Module):
    """Runs in PyTorch where TVM cannot build it, or answers otherwise than PyTorch at first.

    Args:
        graph: the part as a graph of ATen operators.
        leaves: of each output, whether it leaves the graph: then its memory is torch's.
        placement: is told of checks and differences.
        settings: of the build.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        leaves: Sequence[bool],
        placement: Placement,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._graph = graph
        self._leaves = tuple(leaves)
        self._placement = placement
        outputs: Any = graph.graph.output_node().args[0]
        self._strides = [node.meta["val"].stride() for node in outputs]
        places = graph.graph.find_nodes(op="placeholder")
        self._stated = [node.meta["val"].stride() for node in places]
        self._lock = Lock()
        self._check = settings.check
        self._is_new = True
        self._run: Runner | None = None
        module = written(graph)
        try:
            self._run = _built(module, settings)
        except Exception as error:
            self._leave(f"TVM cannot build a part of the graph: {error!r}")

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._is_new:
            return self._lock.run(lambda: self._answer(args))
        return self._answer(args)

    def _answer(self, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if self._is_new:
            answer = self._first(args)
            self._is_new = False  # unless it was interrupted
            return answer
        if self._run is None:
            return self._in_torch(args)
        return self._in_tvm(self._run, args)

    def _in_torch(self, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        result: tuple[torch.Tensor, ...] = self._graph(*args)
        return result

    def _in_tvm(self, run: Runner, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(map(laid_out, run(*args), self._strides, self._leaves))

    def _first(self, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The first call is held against PyTorch.

        An operator of PyTorch's may give other strides than its fake tensors said: then PyTorch
        shows which those of the answers are.
        """
        odd = any(x.stride() != stated for x, stated in zip(args, self._stated, strict=True))
        if self._run is None:
            return self._in_torch(args)
        if not (self._check or odd):
            return self._in_tvm(self._run, args)
        start = time.perf_counter()
        theirs = self._in_torch(args)
        if odd:
            self._strides = [value.stride() for value in theirs]
        if not self._check:
            return theirs
        self._placement.check += (took := time.perf_counter() - start)
        log.info("bnfx: held a part's first answer against PyTorch, in %.0f ms", took * 1e3)
        try:
            ours = self._in_tvm(self._run, args)
            problem = next(filter(None, map(difference, ours, theirs)), None)
            if problem is not None and no_worse(ours, theirs, self._exact(args)):
                problem = None
        except Exception as error:
            ours, problem = theirs, repr(error)
        if problem is None:
            return ours
        self._leave(
            f"TVM answers otherwise than PyTorch, which runs this part from now on: {problem}"
        )
        return theirs

    def _exact(self, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The answers in double precision."""
        graph = copy.deepcopy(self._graph).double()
        result: tuple[torch.Tensor, ...] = graph(
            *(x.double() if x.is_floating_point() else x for x in args)
        )
        return result

    def _leave(self, message: str) -> None:
        self._run = None
        self._placement.differences.append(message)
        warn(message)


def _built(module: Any, settings: Settings) -> Runner:
    """Folded it is already, by the user's rules."""
    target = settings.target
    options: dict[str, Any] = {}
    if settings.database is not None:
        module, options = tuned(module, settings), {"relax_pipeline": "default"}
    executable = build.build(module, target, rules="none", **options)
    return Runner(executable, _device(target), owned=False)


def _device(target: Any) -> Any:
    import tvm

    return tvm.cpu() if str(target.kind.name) == "llvm" else tvm.device(str(target.kind.name), 0)


def laid_out(value: Any, strides: Sequence[int], leaves: bool) -> torch.Tensor:
    """With these strides; in memory of torch's own if it leaves the graph."""
    if not isinstance(value, torch.Tensor):
        value = torch.utils.dlpack.from_dlpack(value)
    assert isinstance(value, torch.Tensor)
    if not leaves and value.stride() == tuple(strides):
        return value
    out = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device)
    return out.copy_(value)
