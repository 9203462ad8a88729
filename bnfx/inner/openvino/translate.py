"""A graph of ATen operators as a model of OpenVINO's."""

from __future__ import annotations

import importlib
import operator
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import EngineRefusal
from bnfx.inner.openvino import elementwise, moving, neural
from bnfx.inner.openvino.rows import Row, Writer
from bnfx.passes.fx.lowering.bind import attribute

TABLE: dict[Any, Row] = {**neural.ROWS, **elementwise.ROWS, **moving.ROWS}


def translated(graph: fx.GraphModule) -> tuple[Any, tuple[int, ...]]:
    """The model, and which inputs of ``graph`` it takes.

    Args:
        graph: see :func:`bnfx.inner.engines.aten_graph.aten_graph`.

    Raises:
        EngineRefusal: naming an operator that no row of the table takes.
    """
    to, parameters, taken = Writer(), list[Any](), list[int]()
    for at, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if node.users:
            _check(node, node.meta["val"])
            to.values[node] = to.parameter(node.meta["val"].shape)
            parameters.append(to.values[node])
            taken.append(at)
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value: Any = attribute(graph, str(node.target))
            _check(node, value)
            if not value.isfinite().all():
                raise EngineRefusal("a weight is infinite or not a number")
            node.meta["val"] = value
            to.values[node] = to.tensor(value)
        elif node.op == "call_function":
            to.values[node] = _call(to, node)
    returned: Any = graph.graph.output_node().args[0]
    results = [value for value in returned if value is not None]
    openvino = importlib.import_module("openvino")
    outputs = [to.ops.result(to.values[value]) for value in results]
    return openvino.Model(outputs, parameters, "bnfx"), tuple(taken)


def _call(to: Writer, node: fx.Node) -> Any:
    if node.target is operator.getitem:
        arguments: Any = node.args
        source, at = arguments
        values = to.values[source]
        if not isinstance(at, int) or at >= len(values):
            raise EngineRefusal(f"no tested way to read output {at} of {source.target}")
        _check(node, node.meta["val"])
        return values[at]
    row = TABLE.get(node.target)
    if row is None:
        raise EngineRefusal(f"no tested way to run {node.target}")
    for each in (node, *node.all_input_nodes):
        value = each.meta["val"]
        if isinstance(value, torch.Tensor):
            _check(node, value)
    return row(to, node, _bound(node))


def _bound(node: fx.Node) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((each.name for each in schema.arguments), node.args, strict=False))
    given |= node.kwargs
    return {each.name: given.get(each.name, each.default_value) for each in schema.arguments}


def _check(node: fx.Node, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        raise EngineRefusal(f"{node} is no tensor")
    kind = value.dtype
    if kind != torch.float32:
        raise EngineRefusal(f"{node.target} has {str(kind).removeprefix('torch.')}, not float32")
    if value.device.type != "cpu" or value.layout != torch.strided or value.is_neg():
        raise EngineRefusal(f"{node.target} is no plain tensor on a CPU")
    if not value.numel():
        raise EngineRefusal(f"{node.target} is empty")
