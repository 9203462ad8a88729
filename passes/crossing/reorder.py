"""Ops that only rearrange elements: identity, permute, reshape, and chains of these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing.movement import BlockedError, Dims, Movement
from bnfx.passes.refusals import Code


@dataclass(frozen=True)
class Identity(Movement):
    """``T x = x``: identity, dropout in evaluation, clone, contiguous.

    Args:
        contiguous: it lays the tensor out anew, as it was written or in the place of a spliced-out
            op that did so. Who reads it does not read its input instead.
    """

    contiguous: bool = False

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine


@dataclass(frozen=True)
class Permute(Movement):
    """Axis ``i`` of the output is axis ``order[i]`` of the input."""

    order: tuple[int, ...]

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return affine.permuted(inverse)

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine.permuted(self.order)


@dataclass(frozen=True)
class Reshape(Movement):
    """The same elements in row-major order under another shape (view, flatten, squeeze, ...)."""

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return _regrouped(affine, after, before)

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return _regrouped(affine, before, after)


@dataclass(frozen=True)
class Chain(Movement):
    """Several movements, one after the other: slices along two axes, pixel shuffle.

    Args:
        steps: each with the shape that it gives; the last gives the output's.
    """

    steps: tuple[tuple[Movement, Dims], ...]

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        for step, source, target in reversed(list(self._chain(before))):
            affine = step.back(affine, source, target)
        return affine

    def back_alone(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        for step, source, target in reversed(list(self._chain(before))):
            affine = step.back_alone(affine, source, target)
        return affine

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        for step, source, target in self._chain(before):
            affine = step.forward(affine, source, target)
        return affine

    def _chain(self, before: Dims) -> Iterator[tuple[Movement, Dims, Dims]]:
        for step, target in self.steps:
            yield step, before, target
            before = target


def _regrouped(affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
    """The map on a tensor of shape ``before`` that is reshaped to ``after``.

    Sizes of both shapes are matched from both ends: what is left between forms groups of axes with
    as many elements. A map that varies within a group is written out along all of it.
    """
    varies = set(affine.axes)
    expanded: list[int] = []
    dims: list[int] = []
    for old, new in _groups(before, after):
        if varies.isdisjoint(old):
            expanded += [1] * len(old)
            dims += [1] * len(new)
            continue
        sizes = [before[axis] for axis in old] + [after[axis] for axis in new]
        if not all(isinstance(size, int) for size in sizes):
            if len(old) != 1 or len(new) != 1:
                raise BlockedError(
                    Code.DYNAMIC_SHAPE, "it crosses a reshape of sizes that are not fixed"
                )
            size = affine.shape[old[0]]
            expanded.append(size)
            dims.append(size)
            continue
        expanded += [int(before[axis]) for axis in old]
        dims += [int(after[axis]) for axis in new]
    return affine.regrouped(expanded, dims)


def _groups(before: Dims, after: Dims) -> Iterator[tuple[list[int], list[int]]]:
    """Groups of axes of the two shapes that hold the same elements."""
    if 0 in before or 0 in after:
        raise BlockedError(Code.UNSUPPORTED_FORM, "it crosses a reshape of an empty tensor")
    front = 0
    while front < min(len(before), len(after)) and before[front] == after[front]:
        yield [front], [front]
        front += 1
    back = 0
    while (
        back < min(len(before), len(after)) - front
        and before[len(before) - 1 - back] == after[len(after) - 1 - back]
    ):
        back += 1
    yield from _middle(before, after, front, back)
    for axis in range(back, 0, -1):
        yield [len(before) - axis], [len(after) - axis]


def _middle(
    before: Dims, after: Dims, front: int, back: int
) -> Iterator[tuple[list[int], list[int]]]:
    old = list(range(front, len(before) - back))
    new = list(range(front, len(after) - back))
    sizes = [*(before[axis] for axis in old), *(after[axis] for axis in new)]
    if not all(isinstance(size, int) for size in sizes):
        yield old, new
        return
    while old or new:
        left, right = old[:1], new[:1]
        while (have := _product(before, left)) != (want := _product(after, right)):
            more, rest = (left, old) if have < want else (right, new)
            if len(more) == len(rest):
                raise BlockedError(Code.UNSUPPORTED_FORM, f"no reshape takes {before} to {after}")
            more.append(rest[len(more)])
        old, new = old[len(left) :], new[len(right) :]
        yield left, right


def _product(dims: Dims, axes: list[int]) -> int:
    return math.prod(int(dims[axis]) for axis in axes)
