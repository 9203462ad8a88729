"""Odd ways in which code reaches the layers of a compiled model; see test_outside.py.

Each is exact over ranks, or said aloud.
"""

from __future__ import annotations

import copy
import functools
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import bnfx
from sync.cases_outside import Head, Looping, Own, compiled, follow, layers, plain, steps
from sync.training import assert_alike, images, make, sizes, train, train_alone


class Generated(Own):
    def _parts(self) -> Iterator[nn.Module]:
        yield self.stem
        torch._dynamo.graph_break()
        yield from (self.left, self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self._parts():
            x = part(x)
        return x


class Referenced(Own):
    """By weak references, in containers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = {"a": [weakref.ref(self.stem)], "b": (self.left,)}
        torch._dynamo.graph_break()
        return self.head(parts["b"][0](parts["a"][0]()(x)))


class Disabled(Own):
    @torch.compiler.disable
    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x)

    @torch.compiler.disable(recursive=False)
    def _one_frame(self, x: torch.Tensor) -> torch.Tensor:
        return self.right(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self._whole(x) + self._one_frame(x))


class InBackward(Own):
    """A layer runs in a hook of backward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.requires_grad:
            x.register_hook(lambda grad: (self.right[1](x.detach()), grad)[1])
        return self.head(self.left(x))


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, part: nn.Module) -> Any:
        with torch.no_grad():
            return part(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad, None


class InAFunction(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(_Within.apply(self.stem(x), self.left))


def case_odd_forwards() -> None:
    for kind in (Generated, Referenced, Disabled, InBackward, InAFunction):
        follow(kind, compiled, steps(), averaged=False)


def case_stances() -> None:
    for kind in (Looping, Own):
        stances = iter(("default", "force_eager", "eager_on_recompile", "default"))

        def wrap(model: nn.Module, stances: Iterator[str] = stances) -> Any:
            run = compiled(model)

            def staged(x: torch.Tensor) -> torch.Tensor:
                with torch.compiler.set_stance(next(stances)):
                    return run(x)

            return staged

        follow(kind, wrap, steps(4), averaged=False)


def case_modes_that_change() -> None:
    def change(model: nn.Module, turn: int) -> None:
        model.train(turn != 1)
        if turn == 2:
            model.left.eval()

    follow(Looping, compiled, steps(4), averaged=False, before=change)


class Failing(Own):
    bad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.bad:
            raise ValueError("bad")
        torch._dynamo.graph_break()
        return self.head(self.left(x))


def case_a_step_that_all_give_up() -> None:
    model, batches = make(Failing), images(sizes())
    expected, run = copy.deepcopy(model), compiled(model)
    mine = batches[dist.get_rank()]
    for each, call, x in ((model, run, mine), (expected, expected, torch.cat(batches))):
        each.bad = True
        with pytest.raises(ValueError, match="bad"):
            call(x)
        each.bad = False
    expected = train_alone(expected, batches)
    train(run, model, mine)
    assert_alike(model, expected)


def case_functional_calls() -> None:
    held = []

    def hold(run: Any) -> Any:
        held.append(run)
        return run

    def call(run: Any, model: nn.Module, prefix: str = "") -> Callable[[torch.Tensor], Any]:
        def functional(x: torch.Tensor) -> Any:
            given = {prefix + name: value for name, value in model.named_parameters()}
            return torch.func.functional_call(run, given, (x,))

        return functional

    for wrap in (
        lambda model: call(hold(compiled(model)), model, "_orig_mod."),
        lambda model: (hold(compiled(model)), call(model, model))[1],
        lambda model: compiled(call(model, model)),
    ):
        follow(Looping, wrap, steps(), averaged=False)


def _methods_of_instances(model: nn.Module) -> Any:
    model.left[1].forward = types.MethodType(nn.BatchNorm2d.forward, model.left[1])
    model.stem[1].forward = functools.partial(type(model.stem[1]).forward, model.stem[1])
    return compiled(model)


def case_forwards_of_instances() -> None:
    follow(Looping, _methods_of_instances, steps(), averaged=False)


class WithRest(Own):
    """Gives back what is yet to be computed."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        torch._dynamo.graph_break()
        return lambda: self.head(self.left(x))


def case_a_call_that_outlives_the_model_s() -> None:
    model, batches = make(WithRest), images(sizes())
    expected, run = copy.deepcopy(model), compiled(model)
    run(batches[dist.get_rank()])()
    expected(torch.cat(batches))()
    assert_alike(model, expected)


def case_classes_that_come_late() -> None:
    """Written after bnfx was imported, and never in a graph."""

    class Late(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            own = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(x, *own, self.training, self.momentum, self.eps)

    def kind() -> nn.Module:
        return nn.Sequential(layers(norm=Late), layers(4, Late), Head())

    held = []

    def by_parts(model: nn.Module) -> Any:
        held.append(compiled(model))
        return lambda x: model[2](model[1](model[0](x)))

    follow(kind, by_parts, steps(), averaged=False)


class Native(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.native_batch_norm(x, None, None, self.mean, self.var, True, 0.1, 1e-5)[0]


def _by_torchscript(model: nn.Module, name: str, way: Callable[..., Any], *given: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        setattr(model, name, way(getattr(model, name), *given))
    return model


def case_what_cannot_share() -> None:
    x, inside = images(sizes())[dist.get_rank()], torch.randn(2, 4, 6, 6).double()
    script, trace = torch.jit.script, functools.partial(torch.jit.trace, check_trace=False)
    made: tuple[tuple[Callable[[], nn.Module], str], ...] = (
        (lambda: Native().double(), "it returns statistics"),
        (lambda: _by_torchscript(make(plain), "1", script), r"TorchScript runs .*1 in training"),
        (lambda: _by_torchscript(make(plain), "1", trace, inside), "where 1 keeps its statistics"),
        (lambda: _by_torchscript(make(Own), "left", script), "TorchScript runs left in training"),
    )
    for kind, words in made:
        with pytest.warns(bnfx.SyncWarning, match=words):
            compiled(kind(), sync="auto")(x)
        with pytest.raises(bnfx.SyncError, match=words):
            compiled(kind())(x)
        compiled(kind(), sync="off")(x)
        kind()(x)
    compiled(kind().eval())(x)
