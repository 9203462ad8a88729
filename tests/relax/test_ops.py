"""Each row of the table of what TVM runs, over a grid of arguments, dtypes, ranks and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import tvm
from relax.op_grids import grids
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from tvm import relax

from bnfx.inner.answers import difference, no_worse
from bnfx.inner.tvm.part import laid_out
from bnfx.inner.tvm.placement import Placement
from bnfx.inner.tvm.specialise import specialised
from bnfx.inner.tvm.stages import staged
from bnfx.inner.tvm.write import write
from bnfx.tvm import relax as build
from bnfx.tvm.ops import TABLE
from bnfx.tvm.relax import Runner
from bnfx.tvm.settings import Settings

GRIDS = grids()
SETTINGS = Settings.parse({"target": "llvm"})
# The dtype, and which cases of a grid: each fifth one, or all.
RUNS = [
    pytest.param(torch.float32, 5, id="float32-some"),
    *(
        pytest.param(dtype, 1, id=str(dtype).removeprefix("torch."), marks=pytest.mark.heavy)
        for dtype in (torch.float32, torch.float64, torch.float16)
    ),
]
# Of each number: a float16 is computed in float32 and rounded once.
TOLERANCE = {torch.float16: 1.1e-3, torch.float32: 3e-6, torch.float64: 1e-13}

Function = Callable[..., tuple[torch.Tensor, ...]]


class _Later(nn.Module):
    """A part of a graph that is built with those of the other cases."""

    def __init__(self, name: str, graph: Any) -> None:
        super().__init__()
        self.name, self.runner = name, None
        outputs = graph.graph.output_node().args[0]
        self.strides = [node.meta["val"].stride() for node in outputs]

    def forward(self, *args: torch.Tensor) -> Any:
        assert self.runner is not None
        return [laid_out(x, s, True) for x, s in zip(self.runner(*args), self.strides, strict=True)]


def _amid(function: Callable[..., Any]) -> Function:
    """Between other operators of TVM's: by themselves, views are PyTorch's."""

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = function(*(x * 1 if x.is_floating_point() and x.dim() else x for x in inputs))
        return tuple(y * 1 for y in (result if isinstance(result, tuple) else (result,)))

    return run


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("dtype", "step"), RUNS)
@pytest.mark.parametrize("op", sorted(TABLE))
@torch.no_grad()
def test_a_row_is_torch(op: str, dtype: torch.dtype, step: int) -> None:
    builder, parts, cases = relax.BlockBuilder(), [], []
    for at, (function, raw) in list(enumerate(GRIDS[op]))[::step]:
        inputs = tuple(x.to(dtype) for x in raw)
        graph = specialised(make_fx(_amid(function))(*inputs), inputs, ())
        placement = Placement()

        def make(part: Any, leaves: Any, told: Any, at: int = at) -> nn.Module:
            parts.append(_Later(f"case_{at}_{told.parts}", part))
            write(builder, parts[-1].name, part)
            return parts[-1]

        runs = staged(graph, SETTINGS, placement, make)
        if placement.reasons.get(op, "").endswith(f"of {str(dtype).removeprefix('torch.')}"):
            continue  # as the row says
        assert placement.tvm[op], f"case {at} is not TVM's: {placement}"
        assert op not in placement.torch
        cases.append((at, runs, inputs, function))
    if not cases:
        assert dtype is not torch.float32
        return
    # Of some cases, without LLVM's optimisations, which take half the time.
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0 if step > 1 else 3})
    executable = build.build(builder.get(), target, rules="none")
    for part in parts:
        part.runner = Runner(executable, function=part.name, owned=False)
    for at, runs, inputs, function in cases:
        for part, (ours, theirs) in enumerate(
            zip(runs(*inputs), _amid(function)(*inputs), strict=True)
        ):
            problem = difference(ours, theirs) or _each_number(ours, theirs)
            if problem is not None:
                exact = _amid(function)(
                    *(x.double() if x.is_floating_point() else x for x in inputs)
                )
                assert _is_rounding(ours, theirs, exact[part]), f"case {at}: {problem}"


def _is_rounding(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether it is PyTorch that rounds, by other kernels on each processor: without AVX-512, its
    convolutions of float16 are off by ten times as much.
    """
    if difference(ours, theirs, dict.fromkeys(TOLERANCE, math.inf)) is not None:
        return False  # in more than the size of numbers
    nearest = exact.to(theirs.dtype)
    return _each_number(ours, nearest) is None or no_worse([ours], [theirs], [exact])


def _each_number(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    """By the larger of itself and what is usual: a large number does not excuse small ones."""
    usual = theirs.isfinite()
    one, other = ours[usual].double(), theirs[usual].double()
    zeros = (one == 0) & (other == 0)
    if not torch.equal(one[zeros].signbit(), other[zeros].signbit()):
        return "zeros of another sign"
    scale = other.abs().clamp_min(float(other.abs().median()) if len(other) else 0.0)
    wrong = (one - other).abs() > TOLERANCE[theirs.dtype] * scale.clamp_min(0.3)
    return f"{one[wrong][:4].tolist()} for {other[wrong][:4].tolist()}" if wrong.any() else None


def test_every_row_has_a_grid() -> None:
    assert set(GRIDS) == set(TABLE)
