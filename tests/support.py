"""What tests share: models that are no identities, and a compiler that keeps what it was given."""

from __future__ import annotations

import linecache
import sys
import types
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn

import bnfx
from bnfx.folding.modules.chain import ModuleChain
from bnfx.folding.modules.same_class import _RULES as RULES
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import is_batch_norm

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
# The smallest ``eps`` that BatchNorm takes: torch 2.11 takes no 0.
LEAST_EPS = 0.0 if TORCH >= (2, 12) else 1e-300
HEAVY = pytest.mark.heavy
DRAWS = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="what draws pages has no wheels for Python 3.10"
)


class InPlace(nn.Sequential):
    """For ``compile()``, by which torch 2.11 compiles no ``forward`` of torch's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm signed random parameters and statistics: a fresh one is an identity."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(count: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for module in model.modules():
            if not is_batch_norm(module):
                continue
            count = module.num_features
            if module.affine:
                sign = torch.where(uniform(count, 0, 1) < 0.3, -1.0, 1.0)
                module.weight.copy_(sign * uniform(count, 0.5, 1.5))
                module.bias.copy_(uniform(count, -0.5, 0.5))
            if module.running_mean is not None:
                module.running_mean.copy_(uniform(count, -0.5, 0.5))
                module.running_var.copy_(uniform(count, 0.5, 2.0))
    return model


def python_module(name: str, source: str) -> types.ModuleType:
    """A Python module of this source, which can be read."""
    file = f"/made/by/tests/{name}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(source, file, "exec"), made.__dict__)
    return made


def fail_on_warnings() -> None:
    """Any but torch's advice on Python 3.13.0. Within ``warnings.catch_warnings``."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Guards may run slower on Python", RuntimeWarning)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|actual - expected| / max|expected|, in float64; the expected answer must be usable."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    assert torch.isfinite(expected).all()
    assert expected.std() > 0, "a constant answer proves nothing"
    return float((actual - expected).abs().max() / expected.abs().max())


def sampled(
    cases: Sequence[Any], always: Collection[str] = (), every: int = 4, first: int = 0
) -> list[Any]:
    """Each ``every``-th case from ``first`` on, and those named; the rest is for the whole suite.

    For one more proof of what another test shows of every case.
    """
    return [
        pytest.param(
            case, id=case.name, marks=() if at % every == first or case.name in always else HEAVY
        )
        for at, case in enumerate(cases)
    ]


class Capture:
    """An inner compiler that keeps the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []
        self.reports: list[Any] = []

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        self.graphs.append(module)
        return module.forward

    @property
    def options(self) -> dict[str, Any]:
        return {"inner": self, "report": self.reports.append}

    def batch_norms(self) -> int:
        """BatchNorm calls left in the captured graphs."""
        return sum(count_batch_norms(graph) for graph in self.graphs)


def count_batch_norms(module: fx.GraphModule) -> int:
    """BatchNorms in a graph, as calls or as modules."""
    count = 0
    for node in module.graph.nodes:
        if node.op == "call_module":
            count += is_batch_norm(module.get_submodule(node.target))
        else:
            call = read_call(node)
            count += isinstance(call, Call) and "batch_norm" in call.kind
    return count


def count_ops(module: fx.GraphModule) -> int:
    """Nodes that compute something."""
    return sum(node.op.startswith("call_") for node in module.graph.nodes)


def fold_class(model: nn.Module) -> Any:
    """The model's own class, folded, without the warnings about what stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bnfx.fold(model, keep="module")


def vouched(model: nn.Module, x: torch.Tensor) -> Any:
    """Its class, where code is not plain: refused with a warning, and folded for who vouches."""
    with pytest.warns(bnfx.FoldWarning, match="is not plain|is no plain method"):
        kept = bnfx.fold(model, x, keep="module")
    assert count_norms(kept) == count_norms(model) > 0
    return bnfx.fold(model, x, keep="module", assume="example")


def fold_chain(model: nn.Sequential, x: torch.Tensor) -> tuple[list[str], dict[str, str]]:
    """Folds a chain on its own modules, as with an example: what went, and what is refused."""
    chain = ModuleChain(model, [str(place) for place in range(len(model))], RULES)
    chain.fold(None)
    if chain.needs_shapes():
        chain.fold((x,))
    folded: list[str] = []
    refused: dict[str, str] = {}
    chain.write(folded, refused)
    return folded, refused


def count_norms(model: nn.Module) -> int:
    """Its modules with running statistics."""
    return sum(isinstance(getattr(m, "running_var", None), torch.Tensor) for m in model.modules())
