"""fx.Graph -> neutral graph: each node gets a role, and what is not known is opaque."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import Identity
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import BATCH_NORM_RANK, read_module
from bnfx.passes.fx.calls.structure import read_structure, squeezes
from bnfx.passes.fx.memory.aliasing import module_writes, mutated_leaves
from bnfx.passes.fx.memory.strides import is_missed_in_vmap, lays_out_anew
from bnfx.passes.fx.memory.writes import Writes, writes_itself, written_values
from bnfx.passes.fx.metadata import (
    dims_of,
    dtype_name,
    is_autocast,
    reads_metadata_only,
    reads_rank,
    takes_shape_of,
    value_of,
)
from bnfx.passes.fx.norm_numbers import NormCall
from bnfx.passes.fx.op_names import op_names, shown_kind
from bnfx.passes.fx.output_layouts import note_layouts
from bnfx.passes.fx.parameters.computed import ComputedConstants
from bnfx.passes.fx.parameters.scope import WHOLE, Scope
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.fx.roles.arithmetic import read_arithmetic
from bnfx.passes.fx.roles.movements import read_movement
from bnfx.passes.fx.roles.operators import read_affine_call, read_operator
from bnfx.passes.fx.roles.splits import is_split, split_part
from bnfx.passes.fx.sites import affine_sites, batch_norm_site, names_batch_norm, nested_sites
from bnfx.passes.graph import Affine, Graph, Linear, Move, Node, Opaque
from bnfx.passes.lifting.lifted import LiftedGraph
from bnfx.passes.refusals import Code, Refusal


@dataclass(frozen=True)
class Lifted(LiftedGraph[fx.Node]):
    """A lifted graph module.

    Args:
        tensors: the parameters that the graph's sources stand for, and what is computed from them.
        constants: the fx nodes that compute from parameters alone.
        in_place: see :class:`~bnfx.passes.fx.memory.aliasing.Writes`.
        norms: the BatchNorms that were read as affine maps.
        sources: what the graph's arguments resolve to.
    """

    tensors: Mapping[str, torch.Tensor]
    constants: ComputedConstants
    in_place: Collection[fx.Node]
    norms: Mapping[Node, NormCall]
    sources: Sources


def lift(
    module: fx.GraphModule,
    parameters: Mapping[str, torch.Tensor],
    scalars: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
    scope: Scope = WHOLE,
) -> Lifted:
    """Give each node of ``module.graph`` its role.

    Args:
        module: untouched.
        parameters, scalars, others, scope: see
            :class:`~bnfx.passes.fx.parameters.sources.Sources`.
    """
    mutated: list[fx.Node | torch.Tensor] = [*mutated_leaves(module.graph, module)]
    mutated += module_writes(module.graph, module)
    sources = Sources(module, parameters, scalars, others, mutated, scope)
    writes = written_values(module.graph, module, sources.may_share_memory)
    sources.constants.pinned, sources.constants.in_place = writes.pinned, writes.in_place
    graph = Graph()
    nodes: dict[fx.Node, Node] = {}
    names = op_names(module.graph)
    norms: dict[Node, NormCall] = {}
    region = 0
    for fx_node in module.graph.nodes:
        node = _start(fx_node, names[fx_node], nodes, writes)
        region += is_autocast(fx_node)
        node.region = region
        if not sources.constants.add(fx_node):
            node.op = shown_kind(fx_node, module, parameters)
            _give_role(node, module, sources, nodes, writes, norms)
        nodes[fx_node] = graph.append(node)
    for node in graph:
        if isinstance(node.role, Affine) and is_missed_in_vmap(node.origin, node.inputs[0].origin):
            why = "inside torch.vmap it lays its output out anew, as nothing else there can"
            node.role, node.refusals = Opaque(), (Refusal(Code.UNSUPPORTED_FORM, why),)
            norms.pop(node, None)
    note_layouts(graph, nodes, module, norms)
    roles = {node: node.role for node in graph}
    return Lifted(
        graph, nodes, roles, sources.tensors, sources.constants, writes.in_place, norms, sources
    )


def _start(fx_node: fx.Node, name: str, nodes: Mapping[fx.Node, Node], writes: Writes) -> Node:
    """An opaque node, with what its metadata says."""
    value = value_of(fx_node)
    inputs = [nodes[argument] for argument in fx_node.all_input_nodes]
    rank = reads_rank(fx_node) and inputs[0].rank is not None
    return Node(
        name=name,
        role=Opaque(not reads_metadata_only(fx_node), rank),
        inputs=inputs,
        rank=None if value is None else value.dim(),
        dtype=None if value is None else dtype_name(value.dtype),
        origin=fx_node,
        shape=None if value is None else dims_of(value),
        pinned=fx_node in writes.pinned,
    )


def _give_role(
    node: Node,
    module: fx.GraphModule,
    sources: Sources,
    nodes: Mapping[fx.Node, Node],
    writes: Writes,
    norms: dict[Node, NormCall],
) -> None:
    fx_node: fx.Node = node.origin
    call = _read(fx_node, module)
    if isinstance(call, Refusal):
        node.refusals = (call,)
        if names_batch_norm(fx_node, module):
            node.sites = (batch_norm_site(fx_node, node.name),)
    elif call is not None:
        _give_algebra(node, call, module, sources, nodes)
        if node.sites and isinstance(node.role, Affine):
            norms[node] = NormCall.read(call, sources)
    elif names_batch_norm(fx_node, module):
        node.sites = (batch_norm_site(fx_node, node.name),)
        why = f"{fx_node.target} is no form of BatchNorm that is read"
        node.refusals = (Refusal(Code.UNSUPPORTED_FORM, why),)
    elif sites := tuple(nested_sites(fx_node, module)):
        node.sites = sites
        node.refusals = (Refusal(Code.NESTED_GRAPH, f"it stands inside {fx_node.name}"),)
    elif fx_node in writes.in_place or not writes_itself(fx_node, module):
        _give_structure(node, module, sources, nodes)


def _give_algebra(
    node: Node,
    call: Call,
    module: fx.GraphModule,
    sources: Sources,
    nodes: Mapping[fx.Node, Node],
) -> None:
    fx_node: fx.Node = node.origin
    if call.kind in ("batch_norm", "instance_norm"):
        node.sites = (batch_norm_site(fx_node, node.name),)
        affine, node.refusals = read_affine_call(call, sources)
        if affine is not None:
            node.role = Affine(BroadcastAffine.of_channels(affine, axis=1))
    else:
        linear, node.refusals = read_operator(call, sources)
        if linear is not None:
            node.role = linear
    if isinstance(node.role, (Affine, Linear)):
        node.inputs = [nodes[call.arguments["input"]]]
    if fx_node.op == "call_module" and node.rank is None:
        node.rank = _rank_by_module(fx_node, module)
    if isinstance(node.role, Affine) and node.inputs[0].rank is None:
        node.inputs[0].rank = node.rank


def _give_structure(
    node: Node, module: fx.GraphModule, sources: Sources, nodes: Mapping[fx.Node, Node]
) -> None:
    """Roles of ops that are neither linear nor a BatchNorm."""
    fx_node: fx.Node = node.origin
    arithmetic = read_arithmetic(fx_node, node, sources.resolve_operand, nodes.__getitem__)
    if arithmetic is not None:
        node.role = arithmetic.role
        node.inputs = arithmetic.inputs
        if isinstance(node.role, Affine):
            node.sites = affine_sites(fx_node, node.name)
        return
    if is_split(fx_node):
        node.role = Opaque(reads_data=not all(map(split_part, fx_node.users)))
        return
    if (part := split_part(fx_node)) is not None:
        source, node.role = nodes[part.source], Move(part.select)
        node.inputs = [source]
        return
    call = read_structure(fx_node, module)
    if call is None:
        return
    data = call.arguments["tensors" if call.kind == "cat" else "input"]
    inputs = list(data) if isinstance(data, (list, tuple)) else [data]
    if not inputs or not all(isinstance(source, fx.Node) for source in inputs):
        return
    if _stops_gradients(fx_node, inputs):
        return
    before = [nodes[source] for source in inputs]
    if any((source.dtype, source.rank) != (node.dtype, before[0].rank) for source in before):
        return
    if squeezes(fx_node) and not all(isinstance(size, int) for size in before[0].shape or ()):
        return
    others = [source for source in fx_node.all_input_nodes if source not in inputs]
    if not all(takes_shape_of(fx_node, source) for source in others):
        return
    role = read_movement(call, before[0].shape, node.shape)
    if role == Move(Identity()) and lays_out_anew(fx_node, inputs[0]):
        role = Move(Identity(contiguous=True))
    if role is not None:
        node.role, node.inputs = role, before
        node.shape_inputs = [nodes[source] for source in others]


def _stops_gradients(fx_node: fx.Node, inputs: Collection[fx.Node]) -> bool:
    """Whether gradients end here, so that a map on one side has other gradients on the other."""
    value = value_of(fx_node)
    sources = map(value_of, inputs)
    return (
        value is not None
        and not value.requires_grad
        and any(source is not None and source.requires_grad for source in sources)
    )


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


def _rank_by_module(fx_node: fx.Node, module: fx.GraphModule) -> int | None:
    """BatchNorm2d and 3d check the rank of their input, so theirs is known without shapes."""
    leaf = module.get_submodule(str(fx_node.target))
    kind = getattr(leaf, "local_class", None) or type(leaf)  # a converted one checks as before
    return next((rank for known, rank in BATCH_NORM_RANK.items() if issubclass(kind, known)), None)
