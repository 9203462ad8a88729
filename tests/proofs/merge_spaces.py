"""Two small linear operators beside or behind one another, and two maps in a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from neutral_run import outputs
from proofs.exact import Dims, Exact, Space, each, integers, prove, small, subsets, varying
from proofs.operators import SIDES, UP_TO_3, Axis, Operator, conv_axes

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Scalar, average
from bnfx.passes.crossing import Identity, Window
from bnfx.passes.graph import Affine, Move, Node
from bnfx.passes.report import Site
from bnfx.passes.rules import (
    lower_batch_norm,
    merge_affines,
    merge_parallel_affines,
    merge_parallel_linear,
    merge_serial_linear,
)

SIZE = 8
FACTORS = ((1.0, 1.0), (1.0, -1.0), (-3.0, 2.0))
GROUPS = (1, 2, 4)


def _length(axis: Axis) -> int:
    reach = axis.dilation * (axis.kernel - 1) + 1
    return (axis.size + sum(axis.padding) - reach) // axis.stride + 1


def _pairs() -> Iterator[tuple[Axis, Axis]]:
    """All pairs of kernels, dilations and paddings with one stride whose outputs agree."""
    for stride in UP_TO_3:
        axes = [
            Axis(kernel, stride, dilation, padding, SIZE)
            for kernel, dilation, padding in itertools.product(UP_TO_3, UP_TO_3, SIDES)
        ]
        yield from (
            (one, other)
            for one, other in itertools.product(axes, axes)
            if _length(one) == _length(other)
        )


def _parallel(rank: int, step: int) -> Iterator[Any]:
    turns = itertools.cycle(itertools.product(GROUPS, GROUPS, (0, 1, 2, 3), FACTORS))
    pairs = list(_pairs())
    for at in range(0, len(pairs) ** rank, step):
        chosen = tuple(pairs[at // len(pairs) ** place % len(pairs)] for place in range(rank))
        yield chosen, next(turns)


def check_parallel(case: Any) -> str:
    """``L1 x + L2 x -> L x``, at the size at hand and at two others."""
    axes, (one_groups, other_groups, biases, factors) = case
    outcome = ""
    for more in range(3):
        one, other = (
            Operator(
                False,
                (groups, 4 // groups, 4 // groups),
                bool(biases >> side & 1),
                tuple(replace(pair[side], size=SIZE + more) for pair in axes),
            )
            for side, groups in enumerate((one_groups, other_groups))
        )
        if any(_length(a) != _length(b) for a, b in zip(one.axes, other.axes, strict=True)):
            assert outcome != "exact", "merged for this size, and wrong for another"
            continue
        model = Exact()
        start = model.value(*one.input_dims)
        arms = [
            model.apply(operator.build(model), start, name)
            for name, operator in (("one", one), ("other", other))
        ]
        node = model.plus("sum", arms[0], arms[1], *factors)
        model.read(node)
        found = prove(model, merge_parallel_linear.RULE, node)
        assert found == outcome or not outcome, "it depends on the size"
        outcome = found
    return outcome


def _arms() -> Iterator[Any]:
    """A convolution beside the input itself, a map of it, or an average pool of it."""
    for kernel, dilation, padding in itertools.product(UP_TO_3, UP_TO_3, SIDES):
        axis = Axis(kernel, 1, dilation, padding, SIZE)
        for groups, arm, factors in itertools.product(
            GROUPS, ("input", "scale", "shift", "map"), FACTORS
        ):
            if _length(axis) == SIZE:
                yield axis, groups, arm, factors
    for kernel, stride, pool in itertools.product(UP_TO_3, UP_TO_3, (1, 2, 4)):
        for padding, pool_padding in itertools.product(SIDES, [(p, p) for p in range(3)]):
            axis = Axis(kernel, stride, 1, padding, SIZE)
            beside = Axis(pool, stride, 1, pool_padding, SIZE)
            if _length(axis) == _length(beside):
                yield axis, 2, beside, (1.0, 1.0)


def check_arm(case: Any) -> str:
    axis, groups, arm, factors = case
    model = Exact()
    chosen = Operator(False, (groups, 4 // groups, 4 // groups), True, (axis,))
    start = model.value(*chosen.input_dims)
    conv = model.apply(chosen.build(model), start)
    other: Node
    match arm:
        case "input":
            other = start
        case Axis():
            pool = average(4, (arm.kernel,), (arm.stride,), (arm.padding,))
            movement = Window((2,), counts_padding=True, convolution=pool)
            other = model.like("pool", Move(movement), start, shape=conv.shape)
        case _:
            scale = model.numbers(1, 4) if arm != "shift" else Scalar(1.0)
            shift = model.numbers(1, 4) if arm != "scale" else Scalar(0.0)
            other = model.map(BroadcastAffine(scale, shift), start)
    node = model.plus("sum", other, conv, *factors)
    model.read(node)
    return prove(model, merge_parallel_linear.RULE, node)


def _channels() -> list[tuple[int, int, int, int, int]]:
    """Channels of the three values, up to 4, and the groups of both operators."""
    found = []
    for sizes in itertools.product(range(1, 5), repeat=3):
        for inner, outer in itertools.product(range(1, 5), repeat=2):
            if not (sizes[0] % inner or sizes[1] % inner or sizes[1] % outer or sizes[2] % outer):
                found.append((*sizes, inner, outer))
    return found


def _serial(rank: int, step: int, repeats: int) -> Iterator[Any]:
    """One of the two has one tap and any stride; the other any attributes."""
    turns = itertools.cycle(itertools.product(_channels(), range(4)))
    ones = [Axis(1, stride, 1, (0, 0), 1) for stride in UP_TO_3]
    at = itertools.count()
    for _ in range(repeats):
        for axes in itertools.product(conv_axes(), repeat=rank):
            for points in itertools.product(ones, repeat=rank):
                for pointwise_last in (True, False):
                    if next(at) % step == 0:
                        pair = (axes, points) if pointwise_last else (points, axes)
                        yield *pair, *next(turns)


def check_serial(case: Any) -> str:
    """``L2(L1 x) -> L x``, border and all, where the rule finds a product."""
    first, last, (ins, middle, outs, inner_groups, outer_groups), biases = case
    model = Exact()
    inner = Operator(False, (inner_groups, ins // inner_groups, middle // inner_groups),
                     bool(biases & 1), first)  # fmt: skip
    outer = Operator(False, (outer_groups, middle // outer_groups, outs // outer_groups),
                     bool(biases & 2), last)  # fmt: skip
    # What stands between must be what the second one takes.
    sizes = tuple(
        _before(one, max(two.size, two.dilation * (two.kernel - 1) + 1 - sum(two.padding)))
        for one, two in zip(first, last, strict=True)
    )
    start = model.value(2, ins, *sizes)
    between = model.apply(inner.build(model), start, "inner")
    node = model.apply(outer.build(model), between, "outer")
    model.read(node)
    outcome = prove(model, merge_serial_linear.RULE, node)
    pointwise = all(axis.kernel == axis.stride == 1 and axis.padding == (0, 0) for axis in first)
    pointwise |= all(axis.kernel == 1 and axis.padding == (0, 0) for axis in last)
    assert (outcome == "exact") == pointwise, outcome
    return outcome


def _before(axis: Axis, wanted: int) -> int:
    """The least input whose output has ``wanted`` positions."""
    reach = axis.dilation * (axis.kernel - 1) + 1
    return max(axis.size, (wanted - 1) * axis.stride + reach - sum(axis.padding), 1)


DIMS: Dims = (2, 3, 4)


def _maps() -> Iterator[Any]:
    """Two maps whose four sides vary along any axes, or are absent."""
    for rank in (1, 2, 3):
        sides: list[Any] = [None, *subsets(range(rank))]
        yield from ((DIMS[:rank], chosen) for chosen in itertools.product(sides, repeat=4))


def check_maps(case: Any) -> str:
    """Merged if and only if one of them varies along all axes of the other."""
    dims, axes = case
    model = Exact()
    shapes = [None if each is None else varying(dims, each) for each in axes]
    first, second = (
        BroadcastAffine(model.side(scale, 1.0), model.side(shift, 0.0))
        for scale, shift in (shapes[:2], shapes[2:])
    )
    node = model.map(second, model.map(first, model.value(*dims), "first"), "second")
    model.read(model.like("copy", Move(Identity()), node))
    outcome = prove(model, merge_affines.RULE, node)
    one, two = set(first.axes), set(second.axes)
    assert (outcome == "exact") == (one <= two or two <= one), outcome
    return outcome


def _map_pairs() -> Iterator[Any]:
    turns = itertools.cycle(FACTORS)
    yield from ((*case, next(turns)) for case in _maps())


def check_map_pair(case: Any) -> str:
    """Two maps of one value, the first of them absent where both of its sides are."""
    dims, axes, factors = case
    model = Exact()
    start = model.value(*dims)
    shapes = [None if each is None else varying(dims, each) for each in axes]
    one, other = (
        BroadcastAffine(model.side(scale, 1.0), model.side(shift, 0.0))
        for scale, shift in (shapes[:2], shapes[2:])
    )
    absent = axes[:2] == (None, None)
    arm = start if absent else model.map(one, start, "one")
    node = model.plus("sum", arm, model.map(other, start, "other"), *factors)
    model.read(model.like("copy", Move(Identity()), node))
    outcome = prove(model, merge_parallel_affines.RULE, node)
    mine, theirs = set(one.axes), set(other.axes)
    assert (outcome == "exact") == (mine <= theirs or theirs <= mine), outcome
    return outcome


def _norms() -> Iterator[Any]:
    return itertools.product((True, False), (True, False), range(4))


def check_norm(case: Any) -> str:
    """BatchNorm of all small numbers, by PyTorch; what it is lowered to is the same map."""
    has_gamma, has_beta, axis = case
    model = Exact()
    means, gammas, betas = [range(-2, 3)] * 3
    rows = list(itertools.product(means, (0.0, 0.75, 3.75, 15.75), gammas, betas))
    mean, var, gamma, beta = (small(*column) for column in zip(*rows, strict=True))
    dims = [2, 3, 2, 2]
    dims[axis] = len(rows)
    affine = ChannelAffine.batch_norm(
        model.source("mean", mean, "float64"),
        model.source("var", var, "float64"),
        model.source("gamma", gamma, "float64") if has_gamma else None,
        model.source("beta", beta, "float64") if has_beta else None,
        eps=0.25,
    )
    start = model.value(*dims)
    sites = (Site("norm", "batch_norm"),)
    node = model.like("norm", Affine(BroadcastAffine.of_channels(affine, axis)), start, sites=sites)
    model.read(node)
    outcome = prove(model, lower_batch_norm.RULE, node)
    assert isinstance(node.role, Affine)
    assert node.role.lowered
    drawn: list[torch.Tensor] = []

    def keep(*arguments: Any, **options: Any) -> torch.Tensor:
        drawn.append(integers(*arguments, **options))
        return drawn[-1]

    (found,) = outputs(model, {}, keep).values()
    arrays = {name: torch.from_numpy(array) for name, array in model.arrays.items()}
    expected = F.batch_norm(
        drawn[-1].movedim(axis, 1), arrays["mean"], arrays["var"], arrays.get("gamma"),
        arrays.get("beta"), eps=0.25,
    )  # fmt: skip
    assert torch.equal(found.movedim(axis, 1), expected)
    return outcome


def _spaces() -> Iterator[Space]:
    parallel, serial = merge_parallel_linear.RULE.name, merge_serial_linear.RULE.name
    maps, lowering = merge_affines.RULE.name, lower_batch_norm.RULE.name
    map_pairs = merge_parallel_affines.RULE.name
    for rule, bound, cases, check, every in (
        (
            parallel,
            "rank 1: all pairs of attributes to 3 with equal outputs",
            lambda step: _parallel(1, step),
            check_parallel,
            150,
        ),
        (
            parallel,
            "rank 2: each 3001st pair of pairs",
            lambda step: _parallel(2, 3001 * step),
            check_parallel,
            999,
        ),
        (parallel, "rank 1: beside the input, a map, a pool", each(_arms), check_arm, 40),
        (
            serial,
            "rank 1: all attributes to 3, channels to 4",
            lambda step: _serial(1, step, 4),
            check_serial,
            100,
        ),
        (serial, "rank 2: each 101st", lambda step: _serial(2, 101 * step, 1), check_serial, 999),
        (maps, "all axes of four sides, ranks 1 to 3", each(_maps), check_maps, 70),
        (map_pairs, "all axes of four sides, ranks 1 to 3", each(_map_pairs), check_map_pair, 70),
        (lowering, "all small statistics, on each axis", each(_norms), check_norm, 4),
    ):
        yield Space(rule, bound, cases, check, every)


SPACES = tuple(_spaces())
