"""A map before or after every small linear operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from neutral_run import linear
from proofs.exact import Exact, Space, each, prove, subsets, varying
from proofs.operators import Layer, Operator, layers, of_rank, rank_1

from bnfx.passes.algebra import BroadcastAffine, Evaluator
from bnfx.passes.rules import fold_affine_into_linear as into
from bnfx.passes.rules import fold_affine_into_next_linear as into_next

Chosen = Operator | Layer
# Of a map's two sides: one number for each channel, one for all, or none.
SIDES = ("channels", "number", "none")


def _map(model: Exact, channels: int, axis: int, scale: str, shift: str) -> BroadcastAffine:
    dims = {"channels": (*(1,) * axis, channels), "number": (), "none": None}
    return BroadcastAffine(model.side(dims[scale], 1.0), model.side(dims[shift], 0.0))


def _sides(cases: Iterator[Chosen], whole: bool) -> Iterator[tuple[Chosen, str, str]]:
    """Each operator with all forms of a map, or with one of them in turn."""
    forms = list(itertools.product(SIDES, SIDES))
    for at, case in enumerate(cases):
        for scale, shift in forms if whole else forms[at % 9 :][:1]:
            yield case, scale, shift


def check_into(case: tuple[Chosen, str, str]) -> str:
    """``affine(L x) -> L' x`` is never refused along the operator's own channels."""
    chosen, scale, shift = case
    model = Exact()
    operator = chosen.build(model)
    before = model.apply(operator, model.value(*chosen.input_dims))
    assert before.rank is not None
    axis = before.rank + operator.channel_axis
    node = model.map(_map(model, operator.out_channels, axis, scale, shift), before)
    model.read(node)
    outcome = prove(model, into.RULE, node)
    assert outcome == "exact", outcome
    return outcome


def check_next(case: tuple[Chosen, str, str]) -> str:
    """``L(affine x) -> L' x``, border and all, is never refused along its input channels."""
    chosen, scale, shift = case
    model = Exact()
    operator = chosen.build(model)
    start = model.value(*chosen.input_dims)
    assert start.rank is not None
    axis = start.rank + operator.channel_axis
    node = model.map(_map(model, operator.in_channels, axis, scale, shift), start)
    model.read(model.apply(operator, node))
    outcome = prove(model, into_next.RULE, node)
    assert outcome == "exact", outcome
    return outcome


def check_definition(operator: Operator) -> str:
    """``dense()``, the oracle of other tests, is what PyTorch does to each basis vector."""
    model = Exact()
    built = operator.build(model)
    _, channels, *sizes = operator.input_dims
    matrix, bias = built.dense((channels, *sizes), model.evaluate)
    basis = torch.eye(matrix.shape[1], dtype=torch.float64).reshape(-1, channels, *sizes)
    torch_values = Evaluator(lambda s: torch.from_numpy(model.arrays[s.name]), torch.zeros(()))
    images = linear(built, torch.cat([basis, basis[:1] * 0]), torch_values).flatten(1)
    assert torch.equal(images[-1], torch.from_numpy(bias))
    assert torch.equal((images[:-1] - images[-1]).T, torch.from_numpy(matrix))
    return "exact"


def _axes() -> Iterator[Any]:
    """Maps that vary along any axes, on operators whose sizes all agree."""
    for rank in (2, 3, 4, 5):
        for scale, shift in itertools.product(list(subsets(range(rank))), repeat=2):
            for kind in ("dense", "conv"):
                if kind == "dense" or rank > 2:
                    yield kind, rank, scale, shift


def check_axes(case: Any, after: bool) -> str:
    """Folded if and only if the map varies along the operator's channels alone."""
    kind, rank, scale, shift = case
    model = Exact()
    dims = (3,) * rank
    axis = rank - 1 if kind == "dense" else 1
    if kind == "dense":
        operator = Layer(3, 3, True, rank).build(model)
    else:
        one = Operator(False, (1, 3, 3), True, ()).channels
        weight = model.numbers(3, 3, *(1,) * (rank - 2), largest=99)
        ones = (1,) * (rank - 2)
        from bnfx.passes.algebra import Conv

        assert one == (1, 3, 3)
        operator = Conv(weight, model.numbers(3), ones, ((0, 0),) * (rank - 2), ones)
    affine = BroadcastAffine(
        model.numbers(*varying(dims, scale)), model.numbers(*varying(dims, shift))
    )
    start = model.value(*dims)
    if after:
        node = model.map(affine, start)
        model.read(model.apply(operator, node))
    else:
        node = model.map(affine, model.apply(operator, start))
        model.read(node)
    outcome = prove(model, into_next.RULE if after else into.RULE, node)
    assert (outcome == "exact") == (scale | shift <= {axis}), outcome
    return outcome


def _spaces() -> Iterator[Space]:
    for rule, check in ((into.RULE.name, check_into), (into_next.RULE.name, check_next)):
        yield Space(
            rule,
            "dense: up to 4 features, ranks 1 to 4, all forms of a map",
            each(lambda: _sides(layers(), True)),
            check,
            40,
        )
        for kind, transposed in (("convolution", False), ("transposed convolution", True)):
            yield Space(
                rule,
                f"{kind}, rank 1: all attributes to 3, channels to 4",
                each(lambda transposed=transposed: _sides(rank_1(transposed), False)),
                check,
                500,
            )
            yield Space(
                rule,
                f"{kind}, rank 2: "
                + ("each 11th pair of axes" if transposed else "all pairs of axes"),
                lambda step, transposed=transposed: _sides(
                    of_rank(2, transposed, step * (11 if transposed else 1)), False
                ),
                check,
                3000,
            )
            yield Space(
                rule,
                f"{kind}, rank 3: a sample",
                lambda step, transposed=transposed: _sides(
                    of_rank(3, transposed, step * (300_007 if transposed else 40_009)), False
                ),
                check,
                200,
            )
    for rule, after in ((into.RULE.name, False), (into_next.RULE.name, True)):
        yield Space(
            rule,
            "every set of axes of scale and shift, ranks 2 to 5, equal sizes",
            each(_axes),
            lambda case, after=after: check_axes(case, after),
            37,
        )
    for transposed in (False, True):
        kind = "transposed convolution" if transposed else "convolution"
        yield Space(
            "definition",
            f"{kind}, rank 1: the matrix, by PyTorch",
            each(lambda transposed=transposed: rank_1(transposed)),
            check_definition,
            400,
        )


SPACES = tuple(_spaces())
