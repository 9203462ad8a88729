"""Graphs of one rewrite over integers: what a rule makes of them must be equal to the last bit.

Every parameter and input is an independent integer that stands for a free symbol, small enough that
float64 computes all sums and products without rounding. Each rule claims that two polynomials in
these symbols are equal; their degree is at most 4, so integers drawn from 1,999 values let a false
claim pass for one output with a probability of at most 4 / 1999 (Schwartz and Zippel).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from neutral import Model
from neutral_run import outputs

from bnfx.passes.algebra import BroadcastAffine, Expression, LinearOperator, Scalar, Source
from bnfx.passes.graph import Affine, Node, Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.rules.rule import Rule

LARGEST = 999
# Legal rewrites that may not pay: whether they do is no question of exactness, so they are made.
DEARER = {Code.COSTS_MORE}

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """All cases of one kind.

    Args:
        rule: the rule or the movement that it is about.
        bound: what is enumerated, in words.
        cases: yields each ``step``-th case.
        check: carries one out; it gives what became of it, and raises if that is wrong.
        every: the fast suite takes each ``every``-th case.
    """

    rule: str
    bound: str
    cases: Callable[[int], Iterable[Any]]
    check: Callable[[Any], str]
    every: int

    def run(self, step: int = 1) -> Counter[str]:
        """Each ``step``-th case; how many came to what.

        Raises:
            AssertionError: naming the case that is wrong.
        """
        found: Counter[str] = Counter()
        for case in self.cases(step):
            try:
                found[self.check(case)] += 1
            except Exception as error:
                raise AssertionError(f"{self.rule} ({self.bound}): {case}") from error
        return found


def each(cases: Callable[[], Iterable[Any]]) -> Callable[[int], Iterable[Any]]:
    """Each ``step``-th of ``cases``, not from the first on, which is the simplest."""
    return lambda step: itertools.islice(cases(), step // 3, None, step)


class Exact(Model):
    """A neutral graph of float64, all of whose parameters are integers."""

    def numbers(self, *dims: int, largest: int = LARGEST) -> Source:
        """A new parameter; no two are the same symbol."""
        values = self.random.integers(-largest, largest + 1, dims)
        return self.source(f"p{len(self.arrays)}", values, "float64")

    def value(self, *dims: int | str) -> Node:
        return self.input("in", *dims, dtype="float64")

    def apply(self, operator: LinearOperator, before: Node, name: str = "linear") -> Node:
        return self.linear(name, operator, before, **self._sizes(operator, before))

    def map(self, affine: BroadcastAffine, before: Node, name: str = "affine") -> Node:
        return self.like(name, Affine(affine), before)

    def read(self, node: Node, name: str = "out") -> Node:
        """Something that reads ``node``, so that its value is compared."""
        return self.like(name, Opaque(), node)

    def _sizes(self, operator: LinearOperator, before: Node) -> dict[str, Any]:
        assert before.shape is not None
        if not operator.spatial_axes:
            return {**self._known(before), "shape": (*before.shape[:-1], operator.out_channels)}
        return super()._sizes(operator, before)

    def _known(self, before: Node) -> dict[str, Any]:
        return {"rank": before.rank, "dtype": before.dtype}

    def side(self, dims: Dims | None, absent: float) -> Expression:
        """One side of a map: an array of ``dims``, or the number that does nothing."""
        return Scalar(absent) if dims is None else self.numbers(*dims)


def integers(dims: list[int], generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Called as ``torch.randn`` is."""
    return torch.randint(-LARGEST, LARGEST + 1, dims, generator=generator, dtype=dtype)


def prove(
    model: Model,
    rule: Rule,
    node: Node,
    numbers: bool = False,
    draw: Callable[..., torch.Tensor] = integers,
    divides: bool = False,
    **functions: Callable[..., torch.Tensor],
) -> str:
    """Let ``rule`` rewrite ``node``, whatever it costs, and hold the graph against itself before.

    Args:
        numbers: whether the rule may look at the parameters.
        divides: whether it may divide by a number that is no power of two, and so round.

    Returns:
        ``"exact"``, ``"a share that rounds"``, or the codes with which it refused.
    """
    assert rule.match(node), "the rule is not about this graph"
    values = model.values if numbers else None
    codes = {refusal.code for refusal in rule.refuse(node, values)} - DEARER
    if codes:
        return ", ".join(sorted(code.value for code in codes))
    before = outputs(model, functions, draw)
    size = len(model.graph)
    rule.rewrite(model.graph, node, values)
    model.graph.verify()
    assert len(model.graph) <= size + 1, "a rewrite that adds"
    after = outputs(model, functions, draw)
    assert before.keys() == after.keys()
    rounds = False
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        if divides and not torch.equal(after[name], expected):
            assert (after[name] - expected).abs().max() <= 1e-13 * expected.abs().max()
            rounds = True
            continue
        assert torch.equal(after[name], expected), f"{name} is another value"
        assert not expected.numel() or expected.abs().max() < 2**53, "not exact in float64"
    return "a share that rounds" if rounds else "exact"


def subsets(axes: Iterable[int]) -> Iterator[frozenset[int]]:
    """All sets of these axes."""
    listed = list(axes)
    for bits in range(2 ** len(listed)):
        yield frozenset(axis for at, axis in enumerate(listed) if bits >> at & 1)


def varying(dims: Dims, axes: frozenset[int]) -> Dims:
    """The shape of an array that varies along ``axes`` of a tensor of shape ``dims``."""
    return tuple(size if axis in axes else 1 for axis, size in enumerate(dims))


def small(*values: int) -> np.ndarray[Any, Any]:
    """An array of float64."""
    return np.asarray(values, dtype=np.float64)
