"""Every small graph of joins and slices between a map and what may absorb it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from proofs.exact import Exact, Space, each, prove

from bnfx.passes.algebra import BroadcastAffine, Conv
from bnfx.passes.crossing import Identity, Select
from bnfx.passes.graph import Affine, Node
from bnfx.passes.rules import move_affine

JOINS = ("concat", "sum", "difference", "product")
PARTS = ("copy", "first", "second")
SIDES = ((True, True), (True, False), (False, True))  # scale and shift of the map


@dataclass(frozen=True)
class Step:
    """A join of two earlier values, or a part of one."""

    op: str
    reads: tuple[int, ...]


def _programs(start: int, steps: int) -> Iterator[tuple[Step, ...]]:
    """All programs of ``steps`` steps, each over the ``start`` first values and those before it."""
    if not steps:
        yield ()
        return
    for before in _programs(start, steps - 1):
        values = range(start + len(before))
        for op, pair in itertools.product(JOINS, itertools.product(values, repeat=2)):
            if op in ("difference", "concat") or pair[0] <= pair[1]:
                yield (*before, Step(op, pair))
        for op, value in itertools.product(PARTS, values):
            yield (*before, Step(op, (value,)))


def _join(model: Exact, step: Step, name: str, values: list[Node]) -> Node | None:
    """The step's node, or ``None`` if its inputs do not fit."""
    read = [values[at] for at in step.reads]
    channels = [int(node.shape[1]) for node in read if node.shape is not None]
    match step.op:
        case "concat":
            return model.concat(name, 1, *read)
        case "copy":
            return model.move(name, Identity(), *read)
        case "first" | "second":
            if channels[0] < 2:
                return None
            half = channels[0] // 2
            bounds = (0, half) if step.op == "first" else (half, channels[0])
            return model.move(name, Select(1, *bounds), *read, 2, bounds[1] - bounds[0], 2)
    if channels[0] != channels[1]:
        return None
    if step.op == "product":
        return model.gate(name, *read)
    return model.plus(name, *read, *((1.0, -2.0) if step.op == "difference" else ()))


def _conv(model: Exact, before: Node, out: int, name: str) -> Node:
    assert before.shape is not None
    weight = model.numbers(out, int(before.shape[1]), 1, largest=9)
    return model.apply(
        Conv(weight, model.numbers(out, largest=9), (1,), ((0, 0),), (1,)), before, name
    )


def _affine(model: Exact, before: Node, sides: tuple[bool, bool]) -> Node:
    assert before.shape is not None
    dims = (1, int(before.shape[1]))
    scale, shift = (model.numbers(*dims, largest=9) if side else None for side in sides)
    identity = BroadcastAffine.identity()
    return model.map(BroadcastAffine(scale or identity.scale, shift or identity.shift), before)


def _cases(start: int, steps: int) -> Iterator[Any]:
    turns = itertools.cycle(SIDES)
    for count in range(1, steps + 1):
        for program in _programs(start, count):
            yield program, next(turns)


def check_back(case: Any) -> str:
    """Two convolutions, the program, and a map on what it gives last."""
    program, sides = case
    model = Exact()
    x = model.value(2, 2, 2)
    values = [_conv(model, x, 2, "a"), _conv(model, x, 2, "b")]
    for at, step in enumerate(program):
        node = _join(model, step, f"v{at}", values)
        if node is None:
            return "does not fit"
        values.append(node)
    return _moved(model, values, _affine(model, values[-1], sides), values)


def check_forward(case: Any) -> str:
    """An input, a map of it, the program, and a convolution on each value that it leaves over."""
    program, sides = case
    model = Exact()
    x = model.value(2, 2, 2)
    node = _affine(model, x, sides)
    values = [node, _conv(model, x, 2, "a")]
    for at, step in enumerate(program):
        joined = _join(model, step, f"v{at}", values)
        if joined is None:
            return "does not fit"
        values.append(joined)
    for at, value in enumerate(values):
        if not value.users:
            model.read(_conv(model, value, 2, f"end{at}"), f"out{at}")
    return _moved(model, values, node, [])


def _moved(model: Exact, values: list[Node], node: Node, unread: list[Node]) -> str:
    for value in unread:
        if not value.users:
            model.read(value, f"out.{value.name}")
    if not node.users:
        model.read(node)
    # Where branches come together, each takes a share of the shift: a third of it, say.
    shares = isinstance(node.role, Affine) and not node.role.map.is_scale
    return prove(model, move_affine.RULE, node, numbers=True, draw=_few, divides=shares)


def _few(dims: list[int], generator: Any, dtype: Any) -> Any:
    """Small inputs: products of products of convolutions must stay exact."""
    return torch.randint(-9, 10, dims, generator=generator, dtype=dtype)


SPACES = (
    Space(
        move_affine.RULE.name,
        "back: all programs of up to 3 joins, slices and copies",
        each(lambda: _cases(2, 3)),
        check_back,
        400,
    ),
    Space(
        move_affine.RULE.name,
        "on: all programs of up to 3 joins, slices and copies",
        each(lambda: _cases(2, 3)),
        check_forward,
        300,
    ),
)
