"""Draws up the details of a report from a neutral graph, before and after the rules ran."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from array_api_compat import array_namespace

from bnfx.passes import pipeline
from bnfx.passes.algebra import Conv, ConvTranspose, Expression, LinearOperator
from bnfx.passes.algebra.expressions.extremes import largest_by_channel
from bnfx.passes.details import GraphDetails, NormNumbers, Op
from bnfx.passes.graph import Add, Affine, Graph, Linear, Node, Product
from bnfx.passes.report import GraphReport, Site
from bnfx.passes.rules.cost import steps
from bnfx.passes.rules.guards import multiply_add_dtype
from bnfx.passes.rules.rule import Rule
from bnfx.passes.values import Values

_BYTES = {"float64": 8, "float16": 2, "bfloat16": 2}


class OpLists:
    """Lists the ops of one graph, once before and once after the rules change it."""

    def __init__(self, graph: Graph) -> None:
        sites = (site for node in graph for site in node.sites)
        self._positions: dict[Site, int] = {site: at for at, site in enumerate(sites)}
        self._identities: dict[Node, int] = {}
        self.before = self._ops(graph, {node: node.sites for node in graph}, None)

    def after(
        self, graph: Graph, carried: Mapping[Node, Sequence[Site]], values: Values | None
    ) -> tuple[Op, ...]:
        """The ops as they are now.

        Args:
            graph: after the rules ran.
            carried: which sites each node carries out.
            values: for the numbers of weights.
        """
        return self._ops(graph, carried, values)

    def position(self, site: Site) -> int:
        """Of the site's verdict in the report."""
        return self._positions[site]

    def _ops(
        self, graph: Graph, carried: Mapping[Node, Sequence[Site]], values: Values | None
    ) -> tuple[Op, ...]:
        shown = [node for node in graph if node.op or _is_rewritten(node)]
        for node in shown:
            self._identities.setdefault(node, len(self._identities))
        return tuple(self._op(node, carried.get(node, ()), values) for node in shown)

    def _op(self, node: Node, sites: Sequence[Site], values: Values | None) -> Op:
        inputs = (self._identities.get(source) for source in node.inputs)
        largest, mean = _by_channel(node, values if sites else None)
        return Op(
            identity=self._identities[node],
            name=node.name,
            kind=kind_of(node),
            inputs=tuple(dict.fromkeys(each for each in inputs if each is not None)),
            shape=node.shape,
            flops=_flops(node),
            weight_bytes=_weight_bytes(node),
            sites=tuple(sorted(self._positions[site] for site in sites)),
            largest=largest,
            mean=mean,
        )


def run_detailed(
    graph: Graph, rules: Sequence[Rule], values: Values | None, norms: Mapping[Site, NormNumbers]
) -> GraphReport:
    """:func:`bnfx.passes.pipeline.run`, and a report with the details that pictures show.

    Args:
        graph: whose nodes have their ops.
        rules: in order of preference.
        values: the numbers at hand.
        norms: of its BatchNorms, from before the rules run.
    """
    lists, carried = OpLists(graph), dict[Node, list[Site]]()
    report = pipeline.run(graph, rules, values, carried)
    after = lists.after(graph, carried, values)
    numbers = {lists.position(site): each for site, each in norms.items()}
    return replace(report, details=GraphDetails(lists.before, after, numbers))


def _is_rewritten(node: Node) -> bool:
    """Whether it is an op of ours, which no front end named."""
    return isinstance(node.role, (Linear, Affine))


def kind_of(node: Node) -> str:
    """What the node computes now, in a word."""
    if isinstance(node.role, Affine) and (node.role.lowered or not node.op):
        return "add" if node.role.map.is_shift else "multiply-add"
    if isinstance(node.role, Linear):
        operator = node.role.operator
        if isinstance(operator, (Conv, ConvTranspose)):
            kind = "conv_transpose" if isinstance(operator, ConvTranspose) else "conv"
            return f"{kind}{len(operator.kernel)}d"
        return "linear"
    return node.op


def _flops(node: Node) -> int:
    if node.shape is None:
        return 0
    size = _count(node.shape)
    match node.role:
        case Affine(affine):
            return steps(affine) * size
        case Linear(operator):
            places, channels = node.shape, operator.out_channels
            if isinstance(operator, ConvTranspose):
                places, channels = node.inputs[0].shape or (), operator.in_channels
            positions = _count(places) // max(channels, 1)
            bias = 0 if operator.bias is None else size
            return 2 * math.prod(operator.weight.shape) * positions + bias
        case Add() | Product():
            return size
    return 0


def _count(dims: Sequence[int | str]) -> int:
    return math.prod(size for size in dims if isinstance(size, int))


def _weight_bytes(node: Node) -> int:
    match node.role:
        case Linear(operator, dtype):
            stored: tuple[Expression | None, ...] = (operator.weight, operator.bias)
        case Affine(affine):
            stored, dtype = (affine.scale, affine.shift), multiply_add_dtype(node.dtype)
        case _:
            return 0
    numbers = sum(math.prod(each.shape) for each in stored if each is not None and each.shape)
    return numbers * _BYTES.get(dtype, 4)


def _by_channel(node: Node, values: Values | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The largest and the mean absolute weight of each output channel."""
    if values is None or not isinstance(node.role, Linear):
        return (), ()
    operator: LinearOperator = node.role.operator
    weight = values.stored(operator.weight, node.role.dtype)
    if 0 in weight.shape:
        return (), ()
    xp = array_namespace(weight)
    rows = operator.rows(xp.abs(weight))
    mean = xp.mean(xp.reshape(xp.astype(rows, xp.float32), (rows.shape[0], -1)), axis=1)
    largest = xp.astype(largest_by_channel(rows), xp.float32)
    return tuple(largest.tolist()), tuple(mean.tolist())
