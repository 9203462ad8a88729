"""What bnfx sees and cannot reach: it says so before the first wrong step; see test_outside.py."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import bnfx
from sync.cases_outside import compiled, layers
from sync.training import images, make, sizes

FUNCTION = r"cases_unshared\.py:\d+ calls F\.batch_norm in training, outside of graphs"
OTHER = "compiled with bnfx is compiled with another backend"


class Functional(nn.Module):
    """A layer of a user's own, in code that Dynamo leaves alone."""

    def __init__(self, training: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.conv, self.uses_batch = nn.Conv2d(3, 4, 1), training

    @torch.compiler.disable
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.mean, self.var, None, None, self.uses_batch, 0.1, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Keyword(Functional):
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return self.later(x)

    @torch.compiler.disable(recursive=False)
    def later(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(input=x, running_mean=None, running_var=None, training=True)


class WithoutStatistics(Functional):
    """Each of these may use its batch: none of them is a BatchNorm in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(
            nn.BatchNorm2d(4, track_running_stats=False).eval(),
            bnfx.SyncBatchNorm(4, track_running_stats=False).eval(),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4),
            nn.BatchNorm2d(4),
            bnfx.SyncBatchNorm(4),
        )

    @torch.compiler.disable
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        own = F.batch_norm(x, self.mean, self.var, training=False)
        return self.norms(F.group_norm(own, 2)) + F.instance_norm(own)


class Broken(nn.Module):
    """Its part is called outside of graphs."""

    def __init__(self, part: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.stem, self.part = layers(), part(layers(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run_part(self.stem(x))

    @torch.compiler.disable
    def run_part(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


def batch() -> torch.Tensor:
    return images(sizes())[dist.get_rank()]


def says(make_model: Callable[[], nn.Module], words: str) -> None:
    """A warning with ``"auto"``; with ``"require"``, an error before anything was wrong."""
    with pytest.warns(bnfx.SyncWarning, match=words):
        compiled(make_model(), sync="auto")(batch())
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(bnfx.SyncError, match=words):
        compiled(model)(batch())
    for name, value in model.state_dict().items():
        assert "stem" in name or torch.equal(value, before[name]), name


def says_nothing(run: Callable[[torch.Tensor], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", bnfx.SyncWarning)
        run(batch())


def case_the_function_outside_of_graphs() -> None:
    for kind in (Functional, Keyword):
        says(lambda kind=kind: make(kind), FUNCTION)  # type: ignore[misc]
    model = make(Functional)
    held = compiled(model)
    with pytest.raises(bnfx.SyncError, match=FUNCTION):  # a part that is called by itself
        model.norm(torch.randn(2, 4, 5, 5).double())
    assert held.training


def case_the_function_where_nobody_shares() -> None:
    says_nothing(make(Functional))
    says_nothing(compiled(make(Functional), sync="off"))
    says_nothing(torch.compile(make(Functional), backend="aot_eager"))
    says_nothing(compiled(make(functools.partial(Functional, False))))
    says_nothing(compiled(WithoutStatistics().double()))
    says_nothing(compiled(make(layers)))
    says_nothing(compiled(make(layers), "aot_eager"))


def case_another_backend_for_a_part() -> None:
    part = functools.partial(torch.compile, backend="eager")
    says(lambda: make(functools.partial(Broken, part)), OTHER)


def case_another_backend_where_all_is_well() -> None:
    def evaluated(module: nn.Module) -> Any:
        return torch.compile(module.eval(), backend="eager")

    says_nothing(compiled(make(functools.partial(Broken, evaluated))))
    whole = make(functools.partial(Broken, functools.partial(torch.compile, backend="eager")))
    says_nothing(compiled(whole, sync="off"))
    part = functools.partial(compiled, inner="aot_eager")
    says_nothing(compiled(make(functools.partial(Broken, part))))

    def converted(module: nn.Module) -> Any:
        return torch.compile(bnfx.convert_sync_batchnorm(module), backend="aot_eager")

    says_nothing(compiled(make(functools.partial(Broken, converted))))
