"""A graph of ATen operators as a model of an engine's."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import EngineRefusal
from bnfx.inner.engines import elementwise, moving, neural
from bnfx.inner.engines.rows import Row, Writer, aten, shape
from bnfx.passes.fx.lowering.bind import attribute

TABLE: dict[Any, Row] = {**neural.ROWS, **elementwise.ROWS, **moving.ROWS}


@dataclass(frozen=True)
class Translated:
    """An engine's nodes: parameters, and results.

    Args:
        sizes: of the results; ``None`` if any is open.
        taken: which inputs of the graph the parameters are.
    """

    parameters: Sequence[Any]
    results: Sequence[Any]
    sizes: Sequence[tuple[int, ...]] | None
    taken: tuple[int, ...]


def translated(graph: fx.GraphModule, ops: Any) -> Translated:
    """``graph`` in the operators of an engine.

    Args:
        graph: see :func:`bnfx.inner.engines.aten_graph.aten_graph`.
        ops: see :mod:`bnfx.inner.engines.rows`.

    Raises:
        EngineRefusal: naming an operator that no row of the table takes.
    """
    unconverted = _unconverted(graph)
    to, parameters, taken = Writer(ops), list[Any](), list[int]()
    for at, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if node.users and not isinstance(node.meta["val"], torch.SymInt):
            given = node.meta["val"]
            _check(node, given.float() if node in unconverted else given)
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
        elif node.op == "call_function" and not _is_number(node):
            to.values[node] = _call(to, node, unconverted)
    returned: Any = graph.graph.output_node().args[0]
    given = [value for value in returned if value is not None]
    results = [ops.result(to.values[value]) for value in given]
    return Translated(parameters, results, _sizes(given), tuple(taken))


def _is_number(node: fx.Node) -> bool:
    """Whether it computes sizes: rows read those of each tensor."""
    return isinstance(node.meta["val"], (torch.SymInt, int))


def _sizes(results: Sequence[fx.Node]) -> Sequence[tuple[int, ...]] | None:
    found = [shape(node) for node in results]
    open_ = any(isinstance(size, torch.SymInt) for sizes in found for size in sizes)
    return None if open_ else found


def _call(to: Writer, node: fx.Node, unconverted: Collection[fx.Node]) -> Any:
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
        if isinstance(value, torch.Tensor) and each not in unconverted:
            _check(node, value)
    return row(to, node, _bound(node))


def _bound(node: fx.Node) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((each.name for each in schema.arguments), node.args, strict=False))
    given |= node.kwargs
    given = {key: fx.map_arg(value, _number) for key, value in given.items()}
    return {each.name: given.get(each.name, each.default_value) for each in schema.arguments}


def _number(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return value if isinstance(value, (torch.SymInt, int)) else node


# Their inputs become float32 before anything is computed, if the result is float32.
_CONVERTING = frozenset(
    {
        aten._to_copy.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
    }
)
_MOVING = moving.ROWS.keys() - {
    aten._to_copy.default,
    aten.cat.default,
    aten.constant_pad_nd.default,
    aten.full.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
}


def _unconverted(graph: fx.GraphModule) -> set[fx.Node]:
    """Inputs of other dtypes, and what moves their numbers about before they become float32:
    PyTorch converts them beforehand.

    Raises:
        EngineRefusal: if anything else reads one.
    """
    found = set[fx.Node]()
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype == torch.float32:
            continue
        moved = node.target in _MOVING and node.all_input_nodes[0] in found
        if node.op != "placeholder" and not moved:
            continue
        for user in node.users:
            result = user.meta.get("val")
            known = isinstance(result, torch.Tensor) and (
                (user.target in _CONVERTING and result.dtype == torch.float32)
                or (user.target in _MOVING and result.dtype == value.dtype)
            )
            # float64 may be too large for float32.
            if not known or value.is_complex() or value.dtype == torch.float64:
                kind = str(value.dtype).removeprefix("torch.")
                raise EngineRefusal(f"an input has {kind}, not float32")
        found.add(node)
    return found


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
