"""Graphs on which an affine map may go back, or on, and why it may not."""

from __future__ import annotations

from typing import Any

from neutral import Model
from neutral_run import check_same

from bnfx.passes.crossing import Movement, Window
from bnfx.passes.graph import Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.move_affine import RULE
from bnfx.passes.rules.routes.back import backward
from bnfx.passes.rules.routes.forward import forward

MAXIMUM = Window((2, 3), by_order=True)
MEAN = Window((2, 3))
POSITIVE = {"gamma": [0, 1, 2, 3]}


def conv(model: Model, name: str = "conv", out: int = 4) -> Node:
    x = next((node for node in model.graph if node.name == "in"), None)
    x = x or model.input("in", 4, 4, 4, 4)
    return model.conv2d(name, x, out)


def back(model: Model, movement: Movement = MEAN, *dims: int, statistics: Any = None) -> Node:
    """conv -> movement -> BatchNorm -> reader; gives the BatchNorm."""
    moved = model.move("moved", movement, conv(model), *(dims or (4, 4, 2, 2)))
    norm = model.norm("norm", moved, statistics)
    model.like("out", Opaque(), norm)
    return norm


def on(model: Model, movement: Movement = MEAN, *dims: int, statistics: Any = None) -> Node:
    """input -> BatchNorm -> movement -> conv; gives the BatchNorm."""
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4), statistics)
    moved = model.move("moved", movement, norm, *(dims or (4, 4, 2, 2)))
    model.conv2d("conv", moved, 4)
    return norm


def every_reason(
    model: Model, node: Node, numbers: bool = True
) -> tuple[tuple[Refusal, ...], tuple[Refusal, ...]]:
    """All reasons why the way back is blocked, and why the way on is."""
    told = model.reasons(RULE, node, numbers=numbers)
    values = model.values if numbers else None
    found = tuple(
        route.refusals or (Refusal(Code.NOTHING_BETWEEN, "nothing stands between"),)
        for route in (backward(node, values), forward(node, values))
    )
    assert told == [*found[0], *found[1]]
    return found[0], found[1]


def finish(model: Model, node: Node) -> Node:
    """``node``, which something reads."""
    model.like("out", Opaque(), node)
    return node


def codes_back(model: Model, node: Node) -> list[Code]:
    """Why the way back is blocked."""
    return [refusal.code for refusal in backward(node, model.values).refusals]


def moved(model: Model) -> None:
    """Everything is as before, and the map is gone."""
    assert check_same(model, RULE).rewrites == {"move-affine": 1}
    assert model.counts()["Affine"] == 0


def reasons(model: Model, node: Node, numbers: bool = True) -> tuple[Refusal, Refusal]:
    """The only reason why the way back is blocked, and the only one why the way on is."""
    (one,), (other,) = every_reason(model, node, numbers)
    return one, other


def back_code(model: Model, node: Node, numbers: bool = True) -> Code:
    first, second = reasons(model, node, numbers)
    assert second.code is Code.NO_LINEAR_AFTER
    return first.code


def on_code(model: Model, node: Node, numbers: bool = True) -> Code:
    first, second = reasons(model, node, numbers)
    assert first.code is Code.NO_LINEAR_BEFORE
    return second.code
