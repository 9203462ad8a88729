"""fx.Graph -> neutral graph: each node gets a role, and what is not known is opaque."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from bnfx.passes.fx.aliasing import module_writes, mutated_leaves
from bnfx.passes.fx.calls import Call, read_call
from bnfx.passes.fx.metadata import dtype_name, location_of, name_of, value_of
from bnfx.passes.fx.modules import BATCH_NORM_RANK, is_batch_norm, read_module
from bnfx.passes.fx.operators import read_affine, read_operator
from bnfx.passes.fx.sources import Sources
from bnfx.passes.graph import Affine, Graph, Linear, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Site

_METADATA_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "layout"})
_METADATA_METHODS = frozenset({"size", "dim", "ndimension", "numel", "is_floating_point"})


@dataclass(frozen=True)
class Lifted:
    """A neutral graph, and the way back.

    Args:
        graph: for the rules.
        nodes: each fx node's neutral node.
        tensors: the parameters that the graph's sources stand for.
    """

    graph: Graph
    nodes: Mapping[fx.Node, Node]
    tensors: Mapping[str, torch.Tensor]


def lift(
    module: fx.GraphModule,
    parameters: Mapping[str, torch.Tensor],
    scalars: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
) -> Lifted:
    """Give each node of ``module.graph`` its role.

    Args:
        module: untouched.
        parameters, scalars, others: see :class:`~bnfx.passes.fx.sources.Sources`.
    """
    mutated: list[fx.Node | torch.Tensor] = [*mutated_leaves(module.graph, module)]
    mutated += module_writes(module.graph, module)
    sources = Sources(module, parameters, scalars, others, mutated)
    graph = Graph()
    nodes: dict[fx.Node, Node] = {}
    for fx_node in module.graph.nodes:
        node = _lift_node(fx_node, module, sources, nodes)
        nodes[fx_node] = graph.append(node)
    return Lifted(graph, nodes, sources.tensors)


def _lift_node(
    fx_node: fx.Node, module: fx.GraphModule, sources: Sources, nodes: Mapping[fx.Node, Node]
) -> Node:
    value = value_of(fx_node)
    node = Node(
        name=name_of(fx_node),
        role=Opaque(reads_data=not _reads_metadata_only(fx_node)),
        inputs=[nodes[argument] for argument in fx_node.all_input_nodes],
        rank=None if value is None else value.dim(),
        dtype=None if value is None else dtype_name(value.dtype),
        origin=fx_node,
    )
    call = _read(fx_node, module)
    if isinstance(call, Refusal):
        node.refusals = (call,)
        if _names_batch_norm(fx_node, module):
            node.sites = (_site(fx_node),)
        return node
    if call is None:
        if fx_node.op != "call_module" and _names_batch_norm(fx_node, module):
            node.sites = (_site(fx_node),)
            why = f"{fx_node.target} is no form of BatchNorm that is read"
            node.refusals = (Refusal(Code.UNSUPPORTED_FORM, why),)
        elif sites := tuple(_nested_sites(fx_node, module)):
            node.sites = sites
            why = f"it stands inside {fx_node.name}"
            node.refusals = (Refusal(Code.NESTED_GRAPH, why),)
        return node
    if "batch_norm" in call.kind:
        node.sites = (_site(fx_node),)
        affine, node.refusals = read_affine(call, sources)
        if affine is not None:
            node.role = Affine(affine, axis=1)
    else:
        linear, node.refusals = read_operator(call, sources)
        if linear is not None:
            node.role = linear
    if isinstance(node.role, (Affine, Linear)):
        node.inputs = [nodes[call.arguments["input"]]]
    if fx_node.op == "call_module" and node.rank is None:
        node.rank = _rank_by_module(fx_node, module)
    return node


def _read(fx_node: fx.Node, module: fx.GraphModule) -> Call | Refusal | None:
    if fx_node.op == "call_module":
        call = read_module(fx_node, module.get_submodule(str(fx_node.target)))
    else:
        call = read_call(fx_node)
    if isinstance(call, Call):
        if not isinstance(call.arguments["input"], fx.Node):
            return Refusal(Code.UNSUPPORTED_FORM, f"{fx_node.name}'s input is a constant")
        if call.kind == "native_batch_norm":
            return Refusal(Code.UNSUPPORTED_FORM, "native_batch_norm also returns statistics")
    return call


def _nested_sites(fx_node: fx.Node, module: fx.GraphModule) -> Iterator[Site]:
    """The BatchNorms in the graphs that a node runs: branches, loop bodies, nested GraphModules."""
    paths = [
        str(argument.target) for argument in fx_node.all_input_nodes if argument.op == "get_attr"
    ]
    if fx_node.op == "call_module":
        paths.append(str(fx_node.target))
    for path in paths:
        try:
            nested = module.get_submodule(path)
        except AttributeError:
            continue  # a tensor
        for name, inner in nested.named_modules(prefix=path):
            if isinstance(inner, fx.GraphModule):
                found = (node for node in inner.graph.nodes if _names_batch_norm(node, inner))
                yield from map(_site, found)
            elif is_batch_norm(inner) and not isinstance(nested, fx.GraphModule):
                yield Site(name, "batch_norm", location_of(fx_node))  # a leaf of a user's tracer


def _names_batch_norm(fx_node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether a node is a BatchNorm, readable or not."""
    if fx_node.op == "call_module":
        return is_batch_norm(module.get_submodule(str(fx_node.target)))
    return fx_node.op == "call_function" and "batch_norm" in str(
        getattr(fx_node.target, "__name__", fx_node.target)
    )


def _site(fx_node: fx.Node) -> Site:
    return Site(name_of(fx_node), "batch_norm", location_of(fx_node))


def _rank_by_module(fx_node: fx.Node, module: fx.GraphModule) -> int | None:
    """BatchNorm2d and 3d check the rank of their input, so theirs is known without shapes."""
    leaf = module.get_submodule(str(fx_node.target))
    kind = getattr(leaf, "local_class", None) or type(leaf)  # a converted one checks as before
    return next((rank for known, rank in BATCH_NORM_RANK.items() if issubclass(kind, known)), None)


def _reads_metadata_only(fx_node: fx.Node) -> bool:
    if fx_node.op == "call_method":
        return fx_node.target in _METADATA_METHODS and len(fx_node.all_input_nodes) == 1
    if fx_node.op == "call_function" and fx_node.target in (getattr, operator.attrgetter):
        return fx_node.args[1] in _METADATA_ATTRIBUTES
    return False
