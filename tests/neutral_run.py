"""Runs neutral graphs in float64, so that a rewritten one can be held against the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from neutral import Model

from bnfx.passes.algebra import BroadcastAffine, Conv, Dense, Evaluator, LinearOperator
from bnfx.passes.crossing import (
    Chain,
    Homogeneous,
    Identity,
    Movement,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)
from bnfx.passes.graph import Add, Affine, Concat, Linear, Move, Node, Opaque, Product
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.rule import Rule

Tensor = torch.Tensor
Functions = dict[str, Callable[..., Tensor]]
UNKNOWN = 3  # a size that is not fixed

CONV = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def check_same(model: Model, *rules: Rule, numbers: bool = True, **functions: Any) -> GraphReport:
    """Run ``rules`` and check that everything that was read by nobody still has the same value."""
    before = outputs(model, functions)
    report = model.run(*rules, numbers=numbers)
    after = outputs(model, functions)
    assert list(after) == list(before)
    assert before
    for name, expected in before.items():
        assert expected.std() > 0, "a constant answer proves nothing"
        assert after[name].shape == expected.shape
        assert (after[name] - expected).abs().max() <= 1e-12 * expected.abs().max()
    return report


def outputs(
    model: Model, functions: Functions, draw: Callable[..., Tensor] = torch.randn
) -> dict[str, Tensor]:
    """The values of what the nodes that nothing reads are given; inputs are random.

    Args:
        functions: what a node of that name computes, where its role does not say.
        draw: makes an input, called as ``torch.randn`` is.
    """
    generator = torch.Generator().manual_seed(0)
    evaluate = Evaluator(
        lambda source: torch.from_numpy(model.arrays[source.name]), torch.zeros(())
    )
    values: dict[Node, Tensor] = {}
    found: dict[str, Tensor] = {}
    for node in model.graph:
        arguments = [values[source] for source in node.inputs]
        if not arguments:
            dims = [size if isinstance(size, int) else UNKNOWN for size in node.shape or ()]
            values[node] = draw(dims, dtype=torch.float64, generator=generator)
            continue
        values[node] = _value(node, arguments, evaluate, functions)
        if node.shape is not None and all(isinstance(size, int) for size in node.shape):
            assert tuple(values[node].shape) == node.shape, node.name
        looks = not isinstance(node.role, Opaque) or node.role.reads_data
        if not node.users and looks:
            found[node.name] = values[node]
    return found


def _value(node: Node, arguments: list[Tensor], evaluate: Evaluator, functions: Any) -> Tensor:
    first = arguments[0]
    match node.role:
        case Linear(operator):
            return linear(operator, first, evaluate)
        case Affine(affine):
            return applied(affine, first, evaluate)
        case Concat(axis):
            return torch.cat(arguments, axis)
        case Add((one, other)):
            return one * first + other * arguments[1]
        case Product():
            return first * arguments[1]
        case Move(movement):
            if node.name in functions:
                return functions[node.name](first)
            return _moved(movement, first, node)
    return functions.get(node.name, lambda *values: values[0])(*arguments)


def _moved(movement: Movement, x: Tensor, node: Node) -> Tensor:
    match movement:
        case Permute(order):
            return x.permute(order)
        case Reshape():
            assert node.shape is not None
            return x.reshape([n if isinstance(n, int) else -1 for n in node.shape])
        case Chain(steps):
            for step, dims in steps:
                x = _moved(step, x, Node("step", node.role, [], shape=dims))
            return x
        case Select(axis, start, stop, keep, step):
            part = x[(*(slice(None),) * axis, slice(start, stop, step))]
            return part if keep else part.squeeze(axis)
        case Window(convolution=Conv() as conv):
            return linear(conv, x, Evaluator(lambda source: x, x))
        case Window(axes, keep=False, by_order=by_order):
            return x.amax(axes) if by_order else x.mean(axes)
        case Window(by_order=by_order):
            return F.max_pool2d(x, 2) if by_order else F.avg_pool2d(x, 2)
        case Pad(sides, fill):
            pads = dict(sides)
            flat = [n for axis in reversed(range(2, x.ndim)) for n in pads.get(axis, (0, 0))]
            return F.pad(x, flat, "reflect" if fill is None else "constant", fill)
        case Homogeneous():
            return F.relu(x)
        case Identity():
            return x
    raise AssertionError(f"{node.name} needs a function")


def applied(affine: BroadcastAffine, x: Tensor, evaluate: Evaluator) -> Tensor:
    """The map of a tensor, aligned at the front."""
    scale, shift = (
        value.reshape((*value.shape, *(1,) * (x.ndim - value.ndim)))
        for value in (evaluate(affine.scale), evaluate(affine.shift))
    )
    return scale * x + shift


def linear(operator: LinearOperator, x: Tensor, evaluate: Evaluator) -> Tensor:
    """The operator's own equation, by torch."""
    weight = evaluate(operator.weight)
    bias = None if operator.bias is None else evaluate(operator.bias)
    if isinstance(operator, Dense):
        return F.linear(x, weight, bias)
    spatial = len(operator.kernel) - 1  # type: ignore[attr-defined]
    flat = [n for pads in reversed(operator.padding) for n in pads]  # type: ignore[attr-defined]
    rest: Any = {
        "stride": operator.stride,  # type: ignore[attr-defined]
        "dilation": operator.dilation,  # type: ignore[attr-defined]
        "groups": operator.groups,  # type: ignore[attr-defined]
    }
    if isinstance(operator, Conv):
        return CONV[spatial](F.pad(x, flat), weight, bias, **rest)
    extra = [n for more in reversed(operator.output_padding) for n in (0, more)]  # type: ignore[attr-defined]
    cut = [more - pad for more, pad in zip(extra, flat, strict=True)]
    y = F.pad(TRANSPOSED[spatial](x, weight, **rest), cut)
    return y if bias is None else y + bias.reshape(-1, *(1,) * (spatial + 1))
