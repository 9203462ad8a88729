"""Shapes of a traced graph, found on example inputs and true for others.

Sizes of the example inputs are symbols, so that what is folded by shapes does not depend on them;
what the graph itself makes a number of (a convolution fixes its channels) is one, and is checked
when the folded graph is called. Where shapes cannot be found that way, all sizes are fixed.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import assert_constant
from bnfx.folding.capturing.squeezed import squeezed_sizes
from bnfx.torch_private import (
    ConstantSource,
    DimDynamic,
    FakeTensorMode,
    ShapeEnv,
    StatelessSymbolicContext,
    deepcopy_to_fake_tensor,
)

Fixed = frozenset[tuple[int, int]]  # (position of an input, axis)


class _NotSymbolicError(Exception):
    """The graph's shapes depend on the sizes at hand in a way that cannot be checked by size."""


def describe_shapes(
    module: fx.GraphModule, example_inputs: Sequence[Any], all_fixed: bool = False
) -> Fixed:
    """Note the shape and dtype of every value in ``node.meta["val"]``; nothing is computed.

    Args:
        module: that takes these inputs.
        example_inputs: in the order of its placeholders.
        all_fixed: leave no size open.

    Returns:
        The axes of inputs whose sizes must be those of the example for the shapes to be true.

    Raises:
        CaptureError: if the inputs do not fit the model.
    """
    try:
        if not all_fixed:
            return _describe_symbolic(module, example_inputs)
    except Exception:  # whatever it was: with numbers, shapes are found, or an error worth reading
        pass
    mode = FakeTensorMode()
    try:
        shapes = deepcopy_to_fake_tensor(module, mode)  # the graph may write to its buffers
        with torch.no_grad():
            FakeTensorProp(shapes, mode).propagate(*example_inputs)
    except Exception as error:
        raise CaptureError(f"the example inputs do not fit the model: {error}") from error
    _note(module, shapes)
    tensors = ((i, v) for i, v in enumerate(example_inputs) if isinstance(v, torch.Tensor))
    return frozenset((position, axis) for position, v in tensors for axis in range(v.dim()))


def _describe_symbolic(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Fixed:
    env = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=env)
    shapes = deepcopy_to_fake_tensor(module, mode)
    inputs: list[Any] = []
    symbols: dict[tuple[int, int], Any] = {}
    for position, value in enumerate(example_inputs):
        if not isinstance(value, torch.Tensor):
            inputs.append(value)
            continue
        if value.dim() and value.shape[0] == 1:
            value = value.repeat(2, *(1 for _ in value.shape[1:]))  # 1 would be no symbol
        dynamic = [DimDynamic.DYNAMIC] * value.dim()
        context: Any = StatelessSymbolicContext(dynamic_sizes=dynamic)
        source = ConstantSource(f"input{position}")
        fake = mode.from_tensor(value, symbolic_context=context, source=source)
        inputs.append(fake)
        for axis, size in enumerate(fake.shape):
            if isinstance(size, torch.SymInt):
                symbols[position, axis] = size.node.expr
    with torch.no_grad():
        FakeTensorProp(shapes, mode).propagate_dont_convert_inputs(*inputs)
    tensors = ((i, v) for i, v in enumerate(example_inputs) if isinstance(v, torch.Tensor))
    fixed = frozenset(
        (position, axis)
        for position, value in tensors
        for axis in range(value.dim())
        if not _is_free(env, symbols, (position, axis))
    )
    for position, axis in fixed:
        if example_inputs[position].shape[axis] != inputs[position].shape[axis]:
            raise _NotSymbolicError
    if next(squeezed_sizes(shapes.graph), None) is not None:
        raise _NotSymbolicError  # they are no relation between sizes, but which axes there are
    if any(_is_relation(env, guard.expr) for guard in env.guards):
        raise _NotSymbolicError
    _note(module, shapes)
    return fixed


def _is_free(env: ShapeEnv, symbols: dict[tuple[int, int], Any], place: tuple[int, int]) -> bool:
    """Whether a size is a symbol still, and no other size was found to be the same."""
    if place not in symbols:
        return False
    now = env.replace(symbols[place])
    others = (env.replace(symbol) for other, symbol in symbols.items() if other != place)
    return bool(now.is_symbol) and now not in others


def _is_relation(env: ShapeEnv, guard: Any) -> bool:
    """Whether shapes are true only if two expressions of sizes are equal."""
    return isinstance(guard, sympy.Eq) and env.replace(guard) is not sympy.true


def _note(module: fx.GraphModule, shapes: fx.GraphModule) -> None:
    for node, described in zip(module.graph.nodes, shapes.graph.nodes, strict=True):
        if "val" in described.meta:
            node.meta["val"] = described.meta["val"]


def check_shapes(module: fx.GraphModule, example_inputs: Sequence[Any], fixed: Fixed) -> None:
    """Make ``module`` check what its shapes rest on, in place.

    That is the ranks of the example inputs, their sizes on the ``fixed`` axes, and all that are no
    tensors.
    """
    placeholders = module.graph.find_nodes(op="placeholder")
    last = placeholders[-1]
    for position, (node, example) in enumerate(zip(placeholders, example_inputs, strict=False)):
        what = f"this graph was folded for {node.name} of"
        if isinstance(example, (bool, int, float, str)):
            with node.graph.inserting_before(last.next):
                assert_constant(node.graph, node, example, str(node.name))
        if not isinstance(example, torch.Tensor):
            continue
        # What is written last comes first: the rank is checked before any size is asked for.
        for axis in (axis for place, axis in sorted(fixed) if place == position):
            size = _call_after(last, node, "size", axis)
            message = f"{what} size {example.shape[axis]} on axis {axis}"
            _assert_equal(size, size, example.shape[axis], message)
        dim = _call_after(last, node, "dim")
        _assert_equal(dim, dim, example.dim(), f"{what} {example.dim()} dimensions")
    module.recompile()


def _call_after(last: fx.Node, node: fx.Node, method: str, *args: int) -> fx.Node:
    with node.graph.inserting_after(last):
        return node.graph.call_method(method, (node, *args))


def _assert_equal(last: fx.Node, found: fx.Node, value: Any, message: str) -> None:
    """Write ``assert found == value`` behind the node ``last``."""
    graph = last.graph
    with graph.inserting_after(last):
        same = graph.call_function(operator.eq, (found, value))
    with graph.inserting_after(same):
        graph.call_function(torch._assert, (same, message))
