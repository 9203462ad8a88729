"""How every small map crosses every small op: ``a(T x) = T(a' x)`` and ``T(a x) = a'(T x)``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from neutral_run import applied
from proofs.exact import Dims, Exact, Space, each, integers, subsets, varying

from bnfx.passes.algebra import BroadcastAffine, Evaluator, Scalar
from bnfx.passes.crossing import (
    BlockedError,
    Chain,
    Homogeneous,
    Movement,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)

Tensor = torch.Tensor
Axes = frozenset[int] | None  # None: the side is absent


@dataclass(frozen=True)
class Crossing:
    """An op on a tensor of shape ``dims``, and which maps cross it.

    Args:
        combined: axes of the input along which no map that crosses may vary.
    """

    movement: Movement
    dims: Dims
    run: Callable[[Tensor], Tensor]
    combined: frozenset[int] = frozenset()


def _check(crossing: Crossing, scale: Axes, shift: Axes, way: str) -> str:
    """The law, where the movement's conditions hold; a refusal only along combined axes."""
    movement, model = crossing.movement, Exact()
    x = integers(list(crossing.dims), torch.Generator().manual_seed(0), torch.float64)
    y = crossing.run(x)
    dims = tuple((x if way == "forward" else y).shape)
    affine = BroadcastAffine(
        model.side(None if scale is None else varying(dims, scale), 1.0),
        model.side(None if shift is None else varying(dims, shift), 0.0),
    )
    if movement.needs_zero_shift and not affine.is_scale:
        return "needs no shift"
    if movement.needs_nonnegative_scale:
        model.arrays = {name: np.asarray(abs(array)) for name, array in model.arrays.items()}
    evaluate = Evaluator(lambda s: torch.from_numpy(model.arrays[s.name]), torch.zeros(()))
    before, after = tuple(x.shape), tuple(y.shape)
    try:
        moved = getattr(movement, way)(affine, before, after)
    except BlockedError as blocked:
        assert crossing.combined, "refused, though nothing is combined"
        return blocked.refusal.code.value
    if way == "forward":
        expected, found = crossing.run(applied(affine, x, evaluate)), applied(moved, y, evaluate)
    else:
        expected, found = applied(affine, y, evaluate), crossing.run(applied(moved, x, evaluate))
    assert torch.equal(found, expected)
    return "exact"


def check(case: tuple[Crossing, Axes, Axes, str]) -> str:
    return _check(*case)


def _with_maps(crossings: Iterator[Crossing]) -> Iterator[tuple[Crossing, Axes, Axes, str]]:
    """Each op with scales along all sets of axes, and shifts along each set in turn."""
    turn = itertools.count()
    for crossing in crossings:
        after = crossing.run(torch.zeros(crossing.dims, dtype=torch.float64)).ndim
        for way, rank in (("forward", len(crossing.dims)), ("back", after)):
            sides: list[Axes] = [None, *subsets(range(rank))]
            if rank <= 3:
                yield from ((crossing, *pair, way) for pair in itertools.product(sides, sides))
            else:
                for scale in sides:
                    yield crossing, scale, sides[next(turn) % len(sides)], way
                    yield crossing, sides[next(turn) % len(sides)], scale, way


def _permutes() -> Iterator[Crossing]:
    for rank in range(1, 5):
        for order in itertools.permutations(range(rank)):
            yield Crossing(Permute(order), (2, 3, 4, 2)[:rank], lambda x, o=order: x.permute(o))


def _shapes(count: int, rank: int) -> list[Dims]:
    if rank == 1:
        return [(count,)]
    firsts = [n for n in range(1, count + 1) if count % n == 0]
    return [(n, *rest) for n in firsts for rest in _shapes(count // n, rank - 1)]


def _reshapes() -> Iterator[Crossing]:
    for count in range(1, 13):
        shapes = [dims for rank in (1, 2, 3) for dims in _shapes(count, rank)]
        for before, after in itertools.product(shapes, shapes):
            yield Crossing(Reshape(), before, lambda x, d=after: x.reshape(d))


def _deep_reshapes() -> Iterator[Crossing]:
    for count in (8, 12, 24):
        shapes = [dims for rank in (4, 5) for dims in _shapes(count, rank)]
        for at, (before, after) in enumerate(itertools.product(shapes, shapes)):
            if at % 211 == 0:
                yield Crossing(Reshape(), before, lambda x, d=after: x.reshape(d))


def _selects() -> Iterator[Crossing]:
    for rank, size in itertools.product((1, 2, 3), (1, 2, 3, 4)):
        for axis, start in itertools.product(range(rank), range(size)):
            dims = tuple(size if at == axis else 2 for at in range(rank))
            for stop, step in itertools.product(range(start + 1, size + 1), (1, 2, 3)):
                part = Select(axis, start, stop, True, step)
                yield Crossing(part, dims, lambda x, p=part: _part(x, p))
            if rank > 1:
                one = Select(axis, start, start + 1, keep=False)
                yield Crossing(one, dims, lambda x, p=one: _part(x, p))


def _part(x: Tensor, part: Select) -> Tensor:
    place = (*(slice(None),) * part.axis, slice(part.start, part.stop, part.step))
    return x[place] if part.keep else x.select(part.axis, part.start)


def _pads() -> Iterator[Crossing]:
    sides = list(itertools.product((-1, 0, 1, 2), repeat=2))
    for rank, fill in itertools.product((1, 2, 3), (0.0, 1.0, None)):
        for axis, (before, after) in itertools.product(range(rank), sides):
            if fill is None and min(before, after) < 0:
                continue
            pad = Pad(((axis, (before, after)),), fill)
            yield Crossing(pad, (3, 4, 3)[:rank], lambda x, p=pad: _padded(x, p), frozenset({axis}))


def _padded(x: Tensor, pad: Pad) -> Tensor:
    ((axis, sides),) = pad.sides
    x = x.movedim(axis, -1)
    if pad.fill is not None:
        return F.pad(x, sides, value=pad.fill).movedim(-1, axis)
    flat = F.pad(x.reshape(1, -1, x.shape[-1]), sides, "reflect")
    return flat.reshape(*x.shape[:-1], -1).movedim(-1, axis)


def _windows() -> Iterator[Crossing]:
    """Means and maxima over each set of axes, of 2 or 4 positions, which divide exactly."""
    for rank in (1, 2, 3):
        dims = (2, 4, 2)[:rank]
        for axes in filter(None, subsets(range(rank))):
            listed = tuple(sorted(axes))
            for keep, by_order in itertools.product((True, False), (True, False)):
                window = Window(listed, keep=keep, by_order=by_order)

                def run(x: Tensor, w: Window = window) -> Tensor:
                    found = x.amax(w.axes, w.keep) if w.by_order else x.mean(w.axes, w.keep)
                    return found

                yield Crossing(window, dims, run, axes)
    for kernel, stride, padding in itertools.product((1, 2, 4), (1, 2, 3), (0, 1, 2)):
        if padding > kernel // 2:
            continue
        most = Window((2,), by_order=True)
        yield Crossing(
            most,
            (2, 3, 5),
            lambda x, k=kernel, s=stride, p=padding: F.max_pool1d(x, k, s, p),
            frozenset({2}),
        )
        mean = Window((2,), counts_padding=padding > 0)
        yield Crossing(
            mean,
            (2, 3, 5),
            lambda x, k=kernel, s=stride, p=padding: F.avg_pool1d(x, k, s, p),
            frozenset({2}),
        )


def _chains() -> Iterator[Crossing]:
    for out, high, wide, r in itertools.product((1, 2), (1, 2, 3), (1, 2), (1, 2)):
        shuffle = Chain(
            (
                (Reshape(), (2, out, r, r, high, wide)),
                (Permute((0, 1, 4, 2, 5, 3)), (2, out, high, r, wide, r)),
                (Reshape(), (2, out, high * r, wide * r)),
            )
        )
        dims = (2, out * r * r, high, wide)
        yield Crossing(shuffle, dims, lambda x, r=r: F.pixel_shuffle(x, r))
    for groups, width in itertools.product((1, 2, 3), (1, 2, 3)):
        turned = Chain(
            (
                (Reshape(), (2, groups, width, 3)),
                (Permute((0, 2, 1, 3)), (2, width, groups, 3)),
                (Reshape(), (2, groups * width, 3)),
            )
        )
        dims = (2, groups * width, 3)
        yield Crossing(turned, dims, lambda x, g=groups: _turned(x, g))


def _turned(x: Tensor, groups: int) -> Tensor:
    n, c, size = x.shape
    return x.reshape(n, groups, c // groups, size).transpose(1, 2).reshape(n, c, size)


# Orders and signs are no polynomials: all small integers, one by one.
FUNCTIONS: dict[str, tuple[Movement, Callable[[Tensor], Tensor]]] = {
    "relu": (Homogeneous(), F.relu),
    "leaky_relu": (Homogeneous(), lambda x: F.leaky_relu(x, 0.25)),
    "falling leaky_relu": (Homogeneous(), lambda x: F.leaky_relu(x, -2.0)),
    "prelu": (Homogeneous(), lambda x: F.prelu(x, x.new_full((1,), -0.5))),
    "amax": (Window((0,), keep=False, by_order=True), lambda x: x.amax(0)),
    "amin": (Window((0,), keep=False, by_order=True), lambda x: x.amin(0)),
}


def _by_order() -> Iterator[Any]:
    return itertools.product(FUNCTIONS, range(4), range(-3, 4), ("back", "forward"))


def check_by_order(case: Any) -> str:
    """Four numbers from -3 to 3, a scale from 0 to 3 and a shift from -3 to 3, all of them."""
    name, scale, shift, way = case
    movement, run = FUNCTIONS[name]
    if movement.needs_zero_shift and shift:
        return "needs no shift"
    every = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 4).T
    affine = BroadcastAffine(Scalar(float(scale)), Scalar(float(shift)))
    y = run(every)
    moved = getattr(movement, way)(affine, tuple(every.shape), tuple(y.shape))
    evaluate = Evaluator(lambda s: torch.zeros(()), torch.zeros(()))
    inner, outer = (moved, affine) if way == "back" else (affine, moved)
    assert torch.equal(run(applied(inner, every, evaluate)), applied(outer, y, evaluate))
    return "exact"


def _spaces() -> Iterator[Space]:
    for name, bound, crossings, every in (
        ("Permute", "all orders, ranks 1 to 4", _permutes, 80),
        ("Reshape", "all shapes of up to 12 elements, ranks 1 to 3", _reshapes, 2500),
        ("Reshape", "ranks 4 and 5: a sample", _deep_reshapes, 60),
        ("Select", "all slices of up to 4 positions, steps to 3", _selects, 100),
        ("Pad", "one axis, -1 to 2 on each side; 0, 1, reflected", _pads, 60),
        ("Window", "means, maxima, pools; all sets of axes", _windows, 40),
        ("Chain", "pixel and channel shuffles", _chains, 40),
    ):
        yield Space(name, bound, each(lambda c=crossings: _with_maps(c())), check, every)
    yield Space(
        "Homogeneous", "all numbers from -3 to 3, scales 0 to 3", each(_by_order), check_by_order, 9
    )


SPACES = tuple(_spaces())
