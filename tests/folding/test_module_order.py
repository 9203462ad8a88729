"""Which modules an example shows to follow one another, what they get, and where they stand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfx.folding.given import ExampleInputs
from bnfx.folding.modules.containers import has_no_forward, is_sequential
from bnfx.folding.modules.same_class import _chains
from bnfx.folding.modules.seen import seen_inputs, seen_running
from bnfx.folding.modules.seen_pairs import seen_pairs
from bnfx.folding.modules.succession import Pair
from bnfx.folding.modules.tree import below, modules_of

X = torch.ones(2, 3, 4, 4)
GIVEN = ExampleInputs((X,))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    SCRIPT = torch.jit.script(nn.ReLU())


class Inner(nn.Module):
    """Hands what it is given to ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(3, 3, 1)

    def forward(self, x: Any, other: Any = None) -> Any:
        return self.b(x) if other is None else self.b(other)


class Optional(nn.Conv2d):
    def forward(self, input: Any, flag: bool = False) -> Any:
        return super().forward(input) * 2 if flag else super().forward(input)


class Listing(nn.Module):
    def forward(self, inputs: Any) -> Any:
        return inputs[0] * 2


class Net(nn.Module):
    def __init__(self, run: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.c, self.b, self.d = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.same, self.inner, self.seq = nn.Identity(), Inner(), nn.Sequential(nn.ReLU(), Inner())
        self.script, self.optional, self.listing = SCRIPT, Optional(3, 3, 1), Listing()
        self.kept: Any = []
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def _let(value: Any, then: Callable[[Any], Any]) -> Any:
    return then(value)


def _kept(m: Any, x: Any) -> Any:
    y = m.c(x)
    m.kept.append(y)
    return m.b(y)


PAIRS: dict[str, tuple[Callable[[Any, Any], Any], set[tuple[str, str]]]] = {
    "one behind the other": (lambda m, x: m.b(m.c(x)), {("c", "b")}),
    "three": (lambda m, x: m.d(m.b(m.c(x))), {("c", "b"), ("b", "d")}),
    "both twice": (lambda m, x: m.b(m.c(m.b(m.c(x)))), {("c", "b")}),
    "each twice, in two turns": (lambda m, x: m.b(m.c(x)) + m.b(m.c(x)), {("c", "b")}),
    "an op between": (lambda m, x: m.b(m.c(x).relu()), set()),
    "read once more": (lambda m, x: _let(m.c(x), lambda y: m.b(y) + y), set()),
    "read before": (lambda m, x: _let(m.c(x), lambda y: y.sum() + m.b(y)), set()),
    "two readers": (lambda m, x: _let(m.c(x), lambda y: m.b(y) + m.d(y)), set()),
    "one reader twice": (lambda m, x: _let(m.c(x), lambda y: m.b(y) + m.b(y)), set()),
    "given back, too": (lambda m, x: _let(m.c(x), lambda y: (m.b(y), y)), set()),
    "kept by the model": (_kept, set()),
    "only its shape is asked for": (
        lambda m, x: _let(m.c(x), lambda y: m.b(y) * y.shape[0]),
        {("c", "b")},
    ),
    "the first alone, too": (lambda m, x: m.b(m.c(x)) + m.c(x), set()),
    "the second alone, too": (lambda m, x: m.b(m.c(x)) + m.b(x), set()),
    "of two modules": (lambda m, x: m.b(m.c(x)) + m.b(m.d(x)), set()),
    "to two modules": (lambda m, x: m.b(m.c(x)) + m.d(m.c(x)), set()),
    "by name": (lambda m, x: m.b(input=m.c(x)), set()),
    "with an option": (lambda m, x: m.optional(m.c(x), flag=True), set()),
    "with an option by its place": (lambda m, x: m.optional(m.c(x), True), set()),
    "in a list": (lambda m, x: m.listing([m.c(x)]), set()),
    "in a list with a number": (lambda m, x: m.listing([m.c(x), 3]), set()),
    "without its option": (lambda m, x: m.optional(m.c(x)), {("c", "optional")}),
    "beside an op with an option": (
        lambda m, x: m.b(m.c(x[torch.zeros(2, dtype=torch.long)])),
        {("c", "b")},
    ),
    "to a block": (lambda m, x: m.inner(m.c(x)), {("c", "inner.b")}),
    "to a block with another": (lambda m, x: m.inner(m.c(x), x), set()),
    "of a block": (lambda m, x: m.b(m.inner(x)), {("inner.b", "b")}),
    "through a container": (
        lambda m, x: m.b(m.seq(m.c(x))),
        {("c", "seq.0"), ("seq.0", "seq.1.b"), ("seq.1.b", "b")},
    ),
    "through what gives what it gets": (lambda m, x: m.b(m.same(m.c(x))), {("c", "b")}),
    "through TorchScript": (lambda m, x: m.b(m.script(m.c(x))), set()),
    "what is given first": (lambda m, x: m.c(x), set()),
}


@pytest.mark.parametrize("name", PAIRS)
def test_which_pairs_an_example_shows(name: str) -> None:
    run, pairs = PAIRS[name]
    model = Net(run).eval()
    assert {(p.first, p.second) for p in seen_pairs(model, GIVEN)} == pairs
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.kept


def _other(x: torch.Tensor) -> torch.Tensor:
    return x[:1, :, :2]


SEEN: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...] | None]] = {
    "once": (lambda m, x: m.same(x), (2, 3, 4, 4)),
    "twice": (lambda m, x: m.same(x) + m.same(x), (2, 3, 4, 4)),
    "of other sizes": (lambda m, x: (m.same(x), m.same(_other(x))), (2, 3, 4, 4)),
    "of other ranks": (lambda m, x: (m.same(x), m.same(x[0])), None),
    "of other dtypes": (lambda m, x: (m.same(x), m.same(x.double())), None),
    "first something else": (lambda m, x: (m.same([x]), m.same(x)), None),
    "then something else": (lambda m, x: (m.same(x), m.same([x])), None),
    "by name": (lambda m, x: m.same(input=x), None),
    "no tensor": (lambda m, x: m.same(3), None),
    "never": (lambda m, x: m.b(x), None),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_a_module_is_given(name: str) -> None:
    run, sizes = SEEN[name]
    found = seen_inputs(Net(run).eval(), GIVEN, {"same"})
    assert found.keys() == ({"same"} if sizes else set())
    for (given,) in found.values():
        assert (tuple(given.shape), given.dtype) == (sizes, torch.float32)


def test_a_module_that_is_given_two() -> None:
    found = seen_inputs(Net(lambda m, x: m.inner(x, x)), GIVEN, {"inner", "inner.b"})
    assert found.keys() == {"inner.b"}


def test_what_runs() -> None:
    model, paths = Net(lambda m, x: m.b(m.script(x))), ["c", "b", "script", "inner.b"]
    assert seen_running(model, GIVEN, paths) == ["b", "script"]
    assert seen_running(model, ExampleInputs(), paths) == paths
    assert seen_running(model, GIVEN, []) == []
    assert seen_inputs(model, ExampleInputs(), {"b"}) == {}
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_looks_leave_no_trace() -> None:
    """A model that raises is not run where nothing is asked; random numbers go on as they were."""

    def fails(m: Any, x: Any) -> Any:
        raise RuntimeError("called")

    assert seen_inputs(Net(fails), GIVEN, ()) == {}
    assert seen_running(Net(fails), GIVEN, []) == []
    noisy = Net(lambda m, x: m.b(x.mul_(torch.rand(()))))
    before, given = torch.get_rng_state(), X.clone()
    seen_inputs(noisy, GIVEN, {"b"})
    seen_running(noisy, GIVEN, ["b"])
    seen_pairs(noisy, GIVEN)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(given, X)


CHAINS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "a pair": ("ab", ["ab"]),
    "a pair twice": ("ab ab", ["ab"]),
    "three": ("bc ab", ["abc"]),
    "two chains": ("ab cd de", ["ab", "cde"]),
    "a ring": ("ab bc ca", []),
    "two behind one": ("ab ac", []),
    "two before one": ("ab cb", []),
    "two before one, in a chain": ("ab cb bd", ["bd"]),
    "two behind one, in a chain": ("da ab ac", ["da"]),
    "a way back": ("ab bc cb", ["bc"]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_pairs_are_joined(name: str) -> None:
    """One that has two partners has none."""
    pairs, chains = CHAINS[name]
    found = _chains(Pair(first, second) for first, second in pairs.split())
    assert ["".join(chain) for chain in found] == chains


class Listed(nn.ModuleList):
    def forward(self, x: Any) -> Any:
        return x


class Backwards(nn.Sequential):
    def __iter__(self) -> Any:
        return reversed(list(self._modules.values()))


class Forwarding(nn.Sequential):
    def forward(self, input: Any) -> Any:
        return input


class Called(nn.Sequential):
    def __call__(self, *args: Any) -> Any:
        return args


class Borrowing(nn.Module):
    forward = nn.Sequential.forward


class Named(nn.Sequential):
    """Adds nothing that matters."""


def _patched() -> nn.Module:
    module = nn.Sequential(nn.ReLU())
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("module", "runs_in_order", "runs_nothing"),
    [
        (nn.Sequential(), True, False),
        (Named(), True, False),
        (Backwards(), False, False),
        (Forwarding(), False, False),
        (Called(), False, False),
        (_patched(), False, False),
        (nn.ModuleList(), False, True),
        (nn.ModuleDict(), False, True),
        (Listed(), False, False),
        (nn.ReLU(), False, False),
        (Borrowing(), False, False),
        (nn.Module(), False, True),
    ],
)
def test_what_containers_run(module: nn.Module, runs_in_order: bool, runs_nothing: bool) -> None:
    assert is_sequential(module) == runs_in_order
    assert has_no_forward(module) == runs_nothing


def test_paths() -> None:
    """As of ``named_modules``, which a class may have made its own."""

    class Hiding(nn.Module):
        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            return iter(())

    leaf, model = nn.ReLU(), Hiding()
    model.a = nn.Sequential(leaf, nn.Sequential(leaf))
    model.b, model.again = leaf, model.a
    model.register_module("none", None)
    every = dict(nn.Module.named_modules(model, remove_duplicate=False))
    assert dict(modules_of(model)) == dict(nn.Module.named_modules(model))
    assert dict(modules_of(model, shared=True)) == every
    assert (below("", "a"), below("a", "b")) == ("a", "a.b")
