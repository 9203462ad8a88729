"""Writes single fx nodes: a linear operator from its attributes, an in-place op as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, LinearOperator
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.lowering.marks import Mark, mark
from bnfx.passes.fx.lowering.slots import Slots
from bnfx.passes.fx.memory.strides import layout_of
from bnfx.passes.fx.memory.writes import functional_form, functional_leaf
from bnfx.passes.graph import Node

_CONVS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


def write_operator(
    graph: fx.Graph, operator: LinearOperator, data: fx.Node, weight: Any, bias: Any
) -> fx.Node:
    """A call that computes ``operator``, its weights as given.

    Raises:
        ValueError: for an operator that torch has no call for.
    """
    if isinstance(operator, Dense):
        return graph.call_function(F.linear, (data, weight, bias))
    if isinstance(operator, ConvTranspose):
        if any(before != after for before, after in operator.padding):
            raise ValueError(
                "torch crops the output of a transposed convolution alike on all sides"
            )
        padding = [before for before, _ in operator.padding]
        rest = (list(operator.stride), padding, list(operator.output_padding))
        rest = (*rest, operator.groups, list(operator.dilation))  # type: ignore[assignment]
        function = _TRANSPOSED[len(operator.kernel)]
        return graph.call_function(function, (data, weight, bias, *rest))
    assert isinstance(operator, Conv)
    padding = [before for before, _ in operator.padding]
    if any(before != after for before, after in operator.padding):
        # torch pads alike on both sides
        sides = [side for pair in reversed(operator.padding) for side in pair]
        data = graph.call_function(F.pad, (data, sides))
        padding = [0] * len(padding)
    return graph.call_function(
        _CONVS[len(operator.kernel)],
        (
            data,
            weight,
            bias,
            list(operator.stride),
            padding,
            list(operator.dilation),
            operator.groups,
        ),
    )


def write_again(
    graph: fx.Graph, fx_node: fx.Node, data: fx.Node, weight: Any, bias: Any
) -> fx.Node:
    """The call of a linear operator as it was written, but for input, weight and bias: what was
    left to its default stays so, and ATen's lists stay lists.
    """
    call = read_call(fx_node)
    assert isinstance(call, Call)
    args, kwargs = list(fx_node.args), dict(fx_node.kwargs)
    for name, value in {"input": data, "weight": weight, "bias": bias}.items():
        position = call.order.index(name)
        if position < len(args):
            args[position] = value
        elif value is not None or name in kwargs:
            kwargs[name] = value
    return graph.create_node("call_function", fx_node.target, tuple(args), kwargs)


def write_multiply_add(
    graph: fx.Graph,
    fx_node: fx.Node,
    node: Node,
    data: fx.Node,
    scale: Any,
    shift: Any,
    slots: Slots,
    is_norm: bool,
) -> fx.Node:
    """``data * scale + shift``, in the dtype and layout of ``fx_node``, for which it stands.

    Args:
        graph: is written to.
        fx_node: the op that it stands for.
        node: the same in the neutral graph.
        data: what it reads.
        scale, shift: nodes or numbers; ``None`` for one that is not there.
        slots: what they come from.
        is_norm: ``fx_node`` is a BatchNorm.
    """

    def place(written: fx.Node) -> fx.Node:
        """Note where a node that is not the last of several comes from."""
        keys = ("nn_module_stack", "stack_trace")
        written.meta = {key: fx_node.meta[key] for key in keys if key in fx_node.meta}
        return written

    result = data
    first = Mark.MULTIPLY_ADD
    for function, operand in ((torch.mul, scale), (torch.add, shift)):
        if operand is not None:
            result = place(graph.call_function(function, (result, operand)))
            mark(result, first)
            first = Mark.REST
    stored = {slot.dtype for slot in slots.all()}
    if node.dtype is None and stored:
        result = place(graph.call_method("type_as", (result, data)))
    elif stored - {node.dtype}:
        result = place(graph.call_method("to", (result, getattr(torch, node.dtype or ""))))
    if node.lays_out and (is_norm or result is data):
        # BatchNorm lays its output out anew; a multiply-add keeps the layout of a transpose.
        result = place(lay_out(graph, result, fx_node, is_norm))
    return result


def lay_out(graph: fx.Graph, data: fx.Node, fx_node: fx.Node, is_norm: bool) -> fx.Node:
    """``data`` in the layout that ``fx_node``, a BatchNorm or arithmetic, gave its output."""
    if not is_norm:
        return graph.call_function(torch.mul, (data, 1))  # lays it out as any arithmetic would
    layout = layout_of(fx_node)
    kwargs: dict[str, Any] = {} if layout is None else {"memory_format": layout}
    return graph.call_method("contiguous", (data,), kwargs)


def write_functional(
    graph: fx.Graph, node: fx.Node, module: nn.Module, new: Callable[[fx.Node], fx.Node]
) -> fx.Node:
    """A node that wrote over its first argument, as one that makes a new value."""
    args = fx.node.map_arg(node.args, new)
    kwargs = dict(fx.node.map_arg(node.kwargs, new))
    if node.op == "call_module":
        form = functional_leaf(module.get_submodule(str(node.target)))
        assert form is not None, "what is found to write in place has such a form"
        written = graph.call_function(form[0], args, form[1])
    else:
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        target = functional_form(node)
        assert target is not None, "what is found to write in place has such a form"
        written = graph.create_node(node.op, target, args, kwargs)
    written.meta = dict(node.meta)
    return written
